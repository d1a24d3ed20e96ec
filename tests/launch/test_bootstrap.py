"""`launch/bootstrap.py`: rounds, verdicts, and going on wherever it was stopped."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.bootstrap.config import BootstrapConfig
from engine.config import to_dict
from engine.data.kept_texts import KeptTexts
from launch.cli import parse
from tests.bootstrap_runs import (
    STEPS,
    after_first,
    loop,
    make_world,
    outcome,
    state,
    words,
)
from tests.capfilt_folder import words_of
from tests.commands import contents
from tests.forked import run
from tests.ranks import ROOT
from tests.runs import metrics

pytestmark = pytest.mark.xdist_group("forked")
STAGES = ("captioner", "filter", "capfilt", "pretrain")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, and one whole loop over them in `whole`."""
    folder = make_world(tmp_path_factory.mktemp("loop"))
    code, said = loop(folder, folder / "whole")
    assert code == 0, said
    return folder


def resolved(*given: object) -> BootstrapConfig:
    return parse(BootstrapConfig, [str(word) for word in given], description="", examples="")


def stop_in(world: Path, output: Path, number: int, stage: str, name: str) -> tuple[int, str]:
    """A loop that gets a signal while a stage is at work: with half a checkpoint, or a shard."""
    inside = ".work/leases/*@0" if stage == "capfilt" else "checkpoints/.step_00000001.*/state.json"
    place = f"*/round_{number}/{stage}/{inside}"
    given = [f"SIG{name}", place, 1, "launch.bootstrap", *words(world, output)]
    ((code, said),) = run("tests.at_file", given, output.with_suffix(".log"))
    return code, said


def test_a_round_leaves_its_stages_and_its_verdict_in_one_file(world: Path) -> None:
    whole = world / "whole"
    found = state(whole)
    zero, one = found["rounds"]
    assert (zero["round"], zero["accepted"], zero["reasons"]) == (0, True, [])
    assert zero["folders"] == {"pretrain": "round_0/pretrain"}
    assert zero["stages"] == {"pretrain": "done"}
    assert (one["round"], one["accepted"], one["reasons"], one["start"]) == (1, True, [], 0)
    assert one["folders"] == {stage: f"round_1/{stage}" for stage in STAGES}
    assert one["stages"] == dict.fromkeys(STAGES, "done")
    promised = {"filter_precision", "filter_recall", "distinct_1", "distinct_2"}
    promised |= {"commonest_share", "retrieval_r1", "kept_share", "unseen_words"}
    assert promised <= set(one["guard"])
    assert all(0 <= value <= 1 for value in one["guard"].values())
    assert found["best_round"] in (0, 1)
    assert found["last_good_round"] == 1
    for round_ in (zero, one):
        results = whole / round_["folders"]["pretrain"] / "evaluation/retrieval/results.json"
        both = json.loads(results.read_text())["metrics"]
        mean = (both["text_to_image_r1"] + both["image_to_text_r1"]) / 2
        assert round_["guard"]["retrieval_r1"] == pytest.approx(mean)


def test_stages_are_given_what_the_paper_gives_them(world: Path) -> None:
    whole, read = world / "whole", {}
    for number, stage in ((0, "pretrain"), *((1, stage) for stage in STAGES)):
        text = (whole / f"round_{number}" / stage / "config.yaml").read_text()
        read[number, stage] = yaml.safe_load(text)
    web, clean = str(world / "web"), str(world / "clean")
    assert read[0, "pretrain"]["data"]["train"] == [web, clean]
    assert read[1, "pretrain"]["data"]["train"] == [str(whole / "round_1/capfilt"), clean]
    # From the same fresh weights, and from no checkpoint.
    assert read[1, "pretrain"]["model"] == read[0, "pretrain"]["model"]
    assert read[1, "pretrain"]["seed"] == read[0, "pretrain"]["seed"] == 0
    for stage in ("captioner", "filter"):
        tuned = read[1, stage]
        assert (tuned["data"]["train"], tuned["seed"]) == ([clean], 1)
        assert tuned["model"]["checkpoint"] == str(whole / "round_0/pretrain")
        assert tuned["model"]["preset"] == "tiny"
        assert len(metrics(whole / "round_1" / stage)) == STEPS
    cleaning = read[1, "capfilt"]
    assert (cleaning["data"]["train"], cleaning["seed"]) == (web, 1)
    assert cleaning["captioner"] == str(whole / "round_1/captioner")
    assert cleaning["filter"] == str(whole / "round_1/filter")
    share = state(whole)["rounds"][1]["guard"]["kept_share"]
    assert len(KeptTexts(whole / "round_1/capfilt")) == round(share * 32)


def test_progress_says_round_stage_and_what_comes_next(world: Path) -> None:
    said = (world / "whole.log").read_text()
    assert "[bootstrap] round 0 of 1, pretrain: from fresh weights on the web and clean" in said
    assert "round 1 of 1, captioner: fine-tuning on the clean pairs, from the model of" in said
    assert "next: the filter" in said
    assert "round 1 of 1: filter_precision " in said
    assert "accepted" in said
    assert "whole: best is round " in said
    assert f"report: {world / 'whole' / 'report.html'}" in said
    page = words_of((world / "whole" / "report.html").read_text())
    assert "The rounds side by side" in page and "How the best round's model learned" in page


def test_a_loop_that_is_done_does_nothing(world: Path) -> None:
    # It is made anew each time, with the time.
    (world / "whole" / "report.html").unlink(missing_ok=True)
    before = contents(world / "whole")
    code, said = loop(world, world / "whole")
    assert (code, "step" in said) == (0, False), said
    (world / "whole" / "report.html").unlink(missing_ok=True)
    assert contents(world / "whole") == before


def test_a_round_that_cleans_badly_is_rejected_before_it_costs_more(
    world: Path, tmp_path: Path
) -> None:
    # A greedy captioner that has learned nothing says the same of everything.
    changes = {"capfilt__caption__top_k": 1, "guard__commonest_share": 0.5}
    after_first(world / "whole", tmp_path / "loop", **changes)
    worse = ("--capfilt.caption.top_k", 1, "--guard.commonest_share", 0.5)
    code, said = loop(world, tmp_path / "loop", *worse, "--rounds", 2)
    assert code == 0, said
    found = state(tmp_path / "loop")
    assert len(found["rounds"]) == 2
    one = found["rounds"][1]
    assert one["accepted"] is False
    assert one["reasons"] == [
        "the commonest synthetic caption makes up 100.0 %, more than guard.commonest_share 50.0 %"
    ]
    assert "pretrain" not in one["stages"]
    assert not (tmp_path / "loop" / "round_1" / "pretrain").exists()
    assert (found["best_round"], found["last_good_round"]) == (0, 0)
    assert "round 1 of 2: rejected: the commonest synthetic caption" in said
    assert "with --guard.on_reject continue the same command goes on from round 0" in said
    # The verdict stands; the next round starts from the same good one, with another seed.
    go_on = ("--rounds", 2, "--guard.on_reject", "continue")
    code, said = loop(world, tmp_path / "loop", *worse, *go_on)
    assert code == 0, said
    two = state(tmp_path / "loop")["rounds"][2]
    assert (two["accepted"], two["start"]) == (False, 0)
    text = (tmp_path / "loop" / "round_2" / "captioner" / "config.yaml").read_text()
    assert yaml.safe_load(text)["seed"] == 2


def test_looser_limits_go_on_with_the_rejected_round(world: Path, tmp_path: Path) -> None:
    output = after_first(world / "whole", tmp_path / "loop", capfilt__caption__top_k=1)
    worse = ("--capfilt.caption.top_k", 1)
    code, said = loop(world, output, *worse, "--guard.commonest_share", 0.5)
    assert code == 0, said
    assert "with looser limits (--guard.*) it goes on with this one" in said
    rejected = state(output)["rounds"][1]
    made = {name: contents(output / "round_1" / name) for name in ("captioner", "filter")}
    code, said = loop(world, output, *worse)
    assert code == 0, said
    one = state(output)["rounds"][1]
    assert (rejected["accepted"], one["accepted"], one["reasons"]) == (False, True, [])
    assert rejected["guard"].items() < one["guard"].items()
    assert made == {name: contents(output / "round_1" / name) for name in made}


def test_a_filter_that_keeps_nothing_cleans_nothing(world: Path, tmp_path: Path) -> None:
    changes = {"capfilt__rule__itm_threshold": 1.0, "guard__filter_recall": 0.1}
    after_first(world / "whole", tmp_path / "loop", **changes)
    strict = ("--capfilt.rule.itm_threshold", 1.0, "--guard.filter_recall", 0.1)
    code, said = loop(world, tmp_path / "loop", *strict)
    assert code == 0, said
    one = state(tmp_path / "loop")["rounds"][1]
    assert one["reasons"] == [
        "of the right texts the filter keeps 0.0 %, less than guard.filter_recall 10.0 %"
    ]
    assert set(one["stages"]) == {"captioner", "filter"}


def test_a_stopped_loop_goes_on_to_the_same_end(world: Path, tmp_path: Path) -> None:
    output = after_first(world / "whole", tmp_path / "loop")
    for stage in ("filter", "capfilt"):
        code, said = stop_in(world, output, 1, stage, "TERM")
        assert (code, "stopped by a signal, everything is saved" in said) == (75, True), said
        assert state(output)["rounds"][1]["accepted"] is None
    code, said = loop(world, output)
    assert code == 0, said
    assert state(output) == state(world / "whole")
    assert outcome(output) == outcome(world / "whole")


def test_a_changed_loop_is_refused(world: Path) -> None:
    before = contents(world / "whole")
    for change, line in (
        (("--filter.train.max_steps", 3), "(filter.train.max_steps 2 -> 3): change them back"),
        (("--data.clean", world / "eval"), "other settings or pairs (pairs.clean "),
        (("--resume", "none"), "holds a loop already"),
    ):
        code, said = loop(world, world / "whole", *change)
        assert (code, line in said, said.count("\n")) == (2, True, 1), said
    assert contents(world / "whole") == before


def test_a_loop_is_repeated_by_its_settings(world: Path) -> None:
    saved = yaml.safe_load((world / "whole" / "config.yaml").read_text())
    again = resolved("--config", world / "whole" / "config.yaml")
    assert to_dict(again) == saved


@pytest.mark.slow
def test_a_killed_loop_goes_on_to_the_same_end(world: Path, tmp_path: Path) -> None:
    output = tmp_path / "loop"
    for number, stage in ((0, "pretrain"), (1, "captioner"), (1, "capfilt"), (1, "pretrain")):
        code, said = stop_in(world, output, number, stage, "KILL")
        assert code == -signal.SIGKILL, said
    code, said = loop(world, output)
    assert code == 0, said
    assert state(output) == state(world / "whole")
    assert outcome(output) == outcome(world / "whole")


@pytest.mark.slow
def test_two_ranks_make_the_same_rounds(world: Path, tmp_path: Path) -> None:
    (main, said), (other, silent) = run(
        "launch.bootstrap", words(world, tmp_path / "two"), tmp_path / "log", ranks=2
    )
    assert (main, other) == (0, 0), said + silent
    assert "[bootstrap]" in said and "[bootstrap]" not in silent
    two, one = state(tmp_path / "two"), state(world / "whole")
    assert [r["stages"] for r in two["rounds"]] == [r["stages"] for r in one["rounds"]]
    assert [r["accepted"] for r in two["rounds"]] == [True, True]
    ours, theirs = (found["rounds"][1]["guard"] for found in (two, one))
    assert set(ours) == set(theirs)
    assert ours["filter_auc"] == pytest.approx(theirs["filter_auc"], abs=0.1)


@pytest.mark.parametrize("name", ["bootstrap_14m", "quickstart_bootstrap"])
def test_a_recipe_prints_what_it_resolves_to(name: str, tmp_path: Path) -> None:
    recipe = ROOT / "launch" / "recipes" / f"{name}.yaml"
    done = subprocess.run(
        [sys.executable, "launch/bootstrap.py", "--config", str(recipe), "--print_config"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout) == to_dict(resolved("--config", recipe))
    (tmp_path / "printed.yaml").write_text(done.stdout)
    assert resolved("--config", tmp_path / "printed.yaml") == resolved("--config", recipe)


@pytest.mark.parametrize(
    ("name", "singles"),
    [
        (
            "bootstrap_14m",
            ("pretrain_base_14m", "finetune_captioner", "finetune_filter", "capfilt"),
        ),
        ("quickstart_bootstrap", ("quickstart", "quickstart_captioner", "quickstart_filter", "")),
    ],
)
def test_a_recipe_has_the_values_of_the_single_stages(name: str, singles: tuple[str, ...]) -> None:
    folder = ROOT / "launch" / "recipes"
    ours = yaml.safe_load((folder / f"{name}.yaml").read_text())
    for stage, single in zip(("pretrain", "captioner", "filter", "capfilt"), singles, strict=True):
        theirs = yaml.safe_load((folder / f"{single}.yaml").read_text()) if single else {}
        for section, values in theirs.items():
            # Evaluation is the loop's own.
            if isinstance(values, dict) and section != "evaluate":
                same = {key: value for key, value in ours[stage][section].items() if key in values}
                assert same == {k: v for k, v in values.items() if k != "epochs" or k in same}
