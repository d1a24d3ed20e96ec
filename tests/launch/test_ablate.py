"""`launch/ablate.py`: every arm from its pairs to its figures, stopped and shared out."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from engine.ablation.arms import CORE
from engine.ablation.config import AblationConfig
from engine.config import to_dict
from engine.data.open_source import open_source
from launch import ablate
from launch.cli import parse
from tests import forked
from tests.commands import call, contents
from tests.ranks import ROOT
from tests.shards import caption, write_shards

pytestmark = pytest.mark.xdist_group("ablate")
RECIPE = ROOT / "launch" / "recipes" / "ablation.yaml"
OPENCLIPART = ROOT / "launch" / "recipes" / "ablation_openclipart.yaml"
STEPS, PAIRS = 2, 24


def words(world: Path, output: Path, *more: object) -> list[str]:
    """A command line with tiny stages; later words win."""
    given = ["--config", RECIPE, "--output_dir", output, "--clean_fraction", 0.25]
    given += ["--data.train", world / "pairs", "--data.eval", world / "held"]
    given += ["--data.min_word_count", 1]
    given += ["--precision", "fp32", "--device", "cpu", "--seeds", "[0]"]
    given += ["--pretrain.model.preset", "tiny", "--pretrain.model.image_size", 32]
    given += ["--pretrain.model.init_text", "null", "--pretrain.evaluate.num_beams", 1]
    given += ["--pretrain.evaluate.max_length", 6, "--capfilt.caption.max_length", 8]
    for stage in ("pretrain", "captioner", "filter"):
        given += [f"--{stage}.train.max_steps", STEPS, f"--{stage}.train.log_every", 1]
        given += [f"--{stage}.train.global_batch_size", 4, f"--{stage}.data.workers", 0]
        given += [f"--{stage}.train.negative_group_size", 4]
    return [str(word) for word in [*given, *more]]


def run(world: Path, output: Path, *more: object) -> tuple[int, str]:
    """Its exit code and all that it said."""
    log = output.with_name(f"{output.name}.log")
    return forked.run("launch.ablate", words(world, output, *more), log)[0]


def uids(spec: str | list[str]) -> set[str]:
    source = open_source(spec)
    return {source.read(number).uid for number in range(len(source))}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, and in `whole` the core arms of one seed over them."""
    folder = tmp_path_factory.mktemp("ablation")
    write_shards(folder / "pairs", PAIRS)
    write_shards(folder / "held", 8)
    code, said = run(folder, folder / "whole", "--arms", json.dumps(CORE))
    assert code == 0, said
    (folder / "said").write_text(said)
    return folder


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_core_arms_end_in_figures(world: Path) -> None:
    found = results(world / "whole")
    assert tuple(found["arms"]) == CORE
    assert 0 <= found["filter_auc"]["mean"] <= 1
    for name, arm in found["arms"].items():
        for figure in ("retrieval_r1", "retrieval_r1_contrast", "retrieval_r5"):
            assert 0 <= arm[figure]["mean"] <= 1
        assert arm["cider"]["mean"] >= 0
        assert arm["cost"]["steps"]["mean"] == STEPS
        assert arm["cost"]["samples"]["mean"] == 4 * STEPS
        assert arm["cost"]["flop"]["mean"] > 0 and arm["cost"]["seconds"]["mean"] > 0
        assert ("gain_over_none" in arm) == (name != "none")
    assert (found["noise"], found["clean_fraction"], found["steps"]) == (0.5, 0.25, [STEPS])
    assert found["chance_r1"] == pytest.approx(1 / 8)
    assert (world / "whole" / "results.md").read_text() in (world / "said").read_text()
    assert (world / "whole" / "results.png").stat().st_size > 1000


@pytest.mark.slow
def test_arms_see_what_they_are_named_for(world: Path) -> None:
    seed = world / "whole" / "seed_0"
    record = json.loads((seed / "clean_25" / "world" / "noise.json").read_text())
    web, clean = record["pairs"], {f"uid-{n}" for n in range(PAIRS)} - set(record["pairs"])
    texts = {}
    for arm in CORE:
        spec = yaml.safe_load((seed / arm / "config.yaml").read_text())["data"]["train"]
        source = open_source(spec)
        samples = [source.read(number) for number in range(len(source))]
        texts[arm] = [(one.uid, *one.captions) for one in samples]
        for one in samples:
            if one.uid in clean:
                assert one.captions == [caption(int(one.uid.removeprefix("uid-")))]
        assert {one.uid for one in samples} >= clean
    found = [pair for pair in texts["none"] if pair[0] in web]
    assert len(texts["none"]) == PAIRS and len(found) == len(web)
    wrong = [uid for uid, text in found if text != web[uid]["true"]]
    assert sorted(wrong) == sorted(uid for uid, facts in web.items() if facts["swapped"])
    # A caption beside every web text, none dropped.
    captioned = [pair for pair in texts["captioner"] if pair[0] in web]
    assert len(captioned) == 2 * len(web) and set(found) < set(captioned)
    assert set(texts["filter"]) <= set(texts["none"])
    assert set(texts["filter"]) <= set(texts["both"]) <= set(texts["captioner"])


@pytest.mark.slow
def test_what_is_complete_is_not_made_again(world: Path) -> None:
    before = contents(world / "whole")
    code, said = run(world, world / "whole", "--arms", json.dumps(CORE))
    assert code == 0, said
    assert "arm none" not in said and "step 1/" not in said
    after = contents(world / "whole")
    assert {name for name in after if after[name] != before.get(name)} <= {"results.json"}


@pytest.mark.slow
def test_another_experiment_is_refused(world: Path) -> None:
    more = ["--pretrain.train.max_steps", 3, "--noise", 0.25]
    code, said = run(world, world / "whole", *more)
    assert code == 2
    assert "other settings (noise 0.5 -> 0.25, pretrain.train.max_steps 2 -> 3)" in said


@pytest.mark.slow
def test_other_arms_join_the_results(world: Path) -> None:
    some = ["both_beam", "both_shared", "both_continued", "align", "clip", "both_clean3"]
    code, said = run(world, world / "whole", "--arms", json.dumps(some))
    assert code == 0, said
    found = results(world / "whole")
    assert tuple(found["arms"]) == (*CORE, *some)
    for name in ("align", "clip"):
        arm = found["arms"][name]
        assert arm["retrieval_r1"] == arm["retrieval_r1_contrast"]
        assert "cider" not in arm
        flop = {n: found["arms"][n]["cost"]["flop"]["mean"] for n in (name, "none")}
        assert flop[name] < flop["none"]
    # Its base was trained for it, but is no arm that was asked for.
    assert (world / "whole" / "seed_0" / "none_clean3" / "checkpoints").is_dir()
    assert "gain_over_none" not in found["arms"]["both_clean3"]
    beam, nucleus = (
        yaml.safe_load((world / "whole/seed_0/clean_25" / name / "config.yaml").read_text())
        for name in ("captions_beam", "captions_nucleus")
    )
    assert (beam["caption"]["method"], nucleus["caption"]["method"]) == ("beam", "nucleus")
    shared = world / "whole/seed_0/clean_25/captions_nucleus_shared/config.yaml"
    facts = yaml.safe_load(shared.read_text())
    assert facts["captioner"] == facts["filter"]
    assert all(math.isfinite(arm["retrieval_r1"]["mean"]) for arm in found["arms"].values())


@pytest.mark.slow
def test_a_web_that_is_noisy_as_found(world: Path, tmp_path: Path) -> None:
    """With clean pairs of their own nothing is swapped, and the filter is measured held out."""
    more = ["--data.clean", world / "held", "--noise", 0, "--clean_fraction", 1]
    code, said = run(world, tmp_path / "out", *more, "--arms", '["both"]')
    assert code == 0, said
    seed = tmp_path / "out" / "seed_0"
    record = json.loads((seed / "clean_100" / "world" / "noise.json").read_text())
    assert (record["web"], record["clean"], record["swapped"]) == (PAIRS, 8, 0)
    found = results(tmp_path / "out")
    assert 0 <= found["filter_auc"]["mean"] <= 1
    assert "filter_kept_swapped" not in found["arms"]["both"]


@pytest.mark.slow
def test_two_processes_share_the_work_and_a_stop_is_gone_on_from(
    world: Path, tmp_path: Path
) -> None:
    """One of them is told to stop while it trains; the other one makes what that one left."""
    output, log = tmp_path / "out", tmp_path / "first.log"
    more = ["--arms", '["none"]', "--seeds", "[0, 1]", "--pretrain.train.max_steps", 30]
    given = words(world, output, *more, "--pretrain.checkpoint.every", 10)
    # It waits in the middle until the other one is at work.
    halt = ["SIGSTOP", "*/seed_0/none/checkpoints/.step_00000010.*", 1, "launch.ablate"]
    first = forked.start("tests.at_file", [*halt, *given], log)[0]
    alive = psutil.Process(first.process.pid)
    first.until(lambda: alive.status() == psutil.STATUS_STOPPED)
    second = forked.start("launch.ablate", given, tmp_path / "second.log")[0]
    second.until((output / "seed_1" / "none" / "metrics.jsonl").exists)
    alive.send_signal(signal.SIGTERM)
    alive.send_signal(signal.SIGCONT)
    assert first.end()[0] == 75, log.read_text()
    code, said = second.end()
    assert code == 0, said
    assert "continuing" in said and "seed_0/none" in said
    found = results(output)["arms"]["none"]
    assert found["seeds"] == [0, 1] and found["cost"]["steps"]["mean"] == 30
    assert found["retrieval_r1"]["std"] is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--noise 1.5", "noise is 1.5: must be at least 0 and below 1"),
        ('--arms ["bot"]', "unknown arm 'bot': did you mean 'both'?"),
        ("--arms []", "arms is empty"),
        ("--clean_fraction 0", "clean_fraction is 0.0: must be above 0"),
        ("--data.train missing", "missing: no such file or folder"),
        ("--data.train ", "no pairs: set data.train"),
        ("--pretrain.train.max_stepz 3", "did you mean 'pretrain.train.max_steps'?"),
        ("--filter.seed 3", "filter.seed is set by the experiment"),
        ("--capfilt.publish_to file:///there", "capfilt.publish_to is set by the experiment"),
        ("--filter.model.preset large", "filter.model.preset 'large' is not the pretraining's"),
        ("--capfilt.caption.prompt a", "capfilt.caption.prompt 'a' is not the prompt"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, given: str, said: str) -> None:
    write_shards(tmp_path / "held", 2)
    done = call(ablate.main, *words(tmp_path, tmp_path / "out", *given.split(" ")))
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1 and said in done.err, done.err


@pytest.mark.parametrize("recipe", [RECIPE, OPENCLIPART], ids=lambda path: path.stem)
def test_a_recipe_resolves_and_prints(recipe: Path, tmp_path: Path) -> None:
    config = parse(AblationConfig, ["--config", str(recipe)], description="", examples="")
    text = yaml.safe_dump(to_dict(config))
    (tmp_path / "again.yaml").write_text(text)
    again = ["--config", str(tmp_path / "again.yaml")]
    assert parse(AblationConfig, again, description="", examples="") == config
    assert config.pretrain.train.max_steps and set(CORE) <= set(config.arms)
