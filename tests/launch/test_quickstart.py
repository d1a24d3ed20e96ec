"""`bash launch/quickstart.sh` from nothing to its report: interrupted, finished, run again."""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.checkpoint import newest_good, steps
from engine.config import RunConfig
from engine.data.open_source import open_source
from launch.cli import parse
from tests import terminal
from tests.commands import contents
from tests.report_run import Elements
from tests.runs import metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6000), pytest.mark.xdist_group("quickstart")]

# More than can be made before a signal comes, however late that is; and what is then made more.
ENDLESS, MORE = 10**7, 20
# The recipe's network and batches are for minutes; its words for the tiny one would not fit.
FLAGS = [
    *("--model.preset", "tiny", "--model.init_text", "null", "--model.queue_size", 64),
    *("--train.warmup_steps", 10, "--train.global_batch_size", 8, "--train.log_every", 1),
    *("--train.negative_group_size", 8, "--evaluate.num_beams", 1),
]
KEYS = {
    *("step", "samples_seen", "loss_itc", "loss_itm", "loss_lm", "lr", "temperature"),
    *("images_per_second", "data_wait_fraction", "mfu", "skipped_steps", "bad_samples"),
    "eta_seconds",
}
RECALLS = [f"{way}_r{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
STAGES = ["1/7 pairs", "2/7 pretraining", "3/7 captioner", "4/7 filter", "5/7 captioning and"]
STAGES += ["6/7 a new model", "7/7 report"]
TRAINED = ("pretrain", "captioner", "filter", "pretrain_clean")


@dataclass(frozen=True)
class Finished:
    """A quickstart that ran to its end.

    Attributes:
        folder: that holds the stages.
        stopped: steps after which the two signals stopped it.
        said: output of the last start.
    """

    folder: Path
    stopped: list[int]
    said: str

    @property
    def steps(self) -> int:
        """Of the run in the end."""
        return self.stopped[-1] + MORE

    @property
    def run(self) -> Path:
        """The pretraining's run folder."""
        return self.folder / "pretrain"


def start(folder: Path, steps: int, *flags: str) -> subprocess.Popen:
    """The command in a terminal of its own."""
    words = ["bash", "launch/quickstart.sh", *FLAGS, "--train.max_steps", steps, *flags]
    return terminal.start(words, QUICKSTART_DIR=str(folder))


def finish(process: subprocess.Popen, code: int) -> str:
    """What it said at its end."""
    said = terminal.finish(process, 3000)
    assert process.returncode == code, said
    return said


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    """Until metrics of a step are written, a line each."""
    deadline, path = time.monotonic() + 600, run / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if path.is_file() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}: {terminal.kill(process)}")


def saved_steps(run: Path) -> list[int]:
    """Steps whose checkpoints are there."""
    return [int(path.name.removeprefix("step_")) for path in steps(run / "checkpoints")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("runs") / "quickstart"
    stopped = [0]
    for from_terminal in (False, True):
        process = start(folder, ENDLESS)
        wait_for_step(folder / "pretrain", stopped[-1] + 1, process)
        if from_terminal:
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, signal.SIGTERM)
        assert "saved; start again to continue" in finish(process, 75)
        stopped.append(saved_steps(folder / "pretrain")[-1])
        assert not (folder / "pretrain" / "evaluation").exists()
    said = finish(start(folder, stopped[-1] + MORE), 0)
    return Finished(folder, stopped[1:], said)


def test_an_interrupted_run_continues_to_the_same_end(finished: Finished) -> None:
    first, second = finished.stopped
    assert 0 < first < second
    assert f"step_{second:08d} at step {second}" in finished.said
    assert [line["step"] for line in metrics(finished.run)] == list(range(1, finished.steps + 1))
    assert newest_good(finished.run / "checkpoints").name == f"step_{finished.steps:08d}"


def test_the_run_folder_keeps_its_contract(finished: Finished) -> None:
    run, steps = finished.run, finished.steps
    for line in metrics(run):
        assert set(line) == KEYS
        assert line["samples_seen"] == 8 * line["step"]
        assert all(line[name] > 0 for name in ("loss_itc", "loss_itm", "loss_lm"))
    config = parse(RunConfig, ["--config", str(run / "config.yaml")], description="", examples="")
    assert config.train.max_steps == steps and config.model.preset == "tiny"
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == KEYS - {"step", "eta_seconds", "mfu"}
    shown = {event.step: event.value for event in events.Scalars("loss_itc")}
    assert shown.keys() == set(range(1, steps + 1))
    assert shown[steps] == pytest.approx(metrics(run)[-1]["loss_itc"])
    assert saved_steps(run) == [steps]
    saved = {path.name for path in newest_good(run / "checkpoints").iterdir()}
    assert saved == {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}
    for part, count in (("train", 3553), ("heldout", 400)):
        assert len(open_source(str(finished.folder / "data" / part))) == count


def test_figures_stand_beside_chance(finished: Finished) -> None:
    said = [line.split() for line in finished.said.splitlines()]
    for task, names in (("retrieval", RECALLS), ("caption", ["cider", "bleu4", "word_f1"])):
        path = finished.run / "evaluation" / task / "results.json"
        results = json.loads(path.read_text())
        assert (results["count"], results["bad_samples"]) == (400, 0)
        for name in names:
            value, chance = results["metrics"][name], results["chance"][name]
            assert [name, f"{value:.3f}", "(chance", f"{chance:.3f})"] in said
    assert results["examples"][0]["generated"] is not None
    assert "R@5" in finished.said and "(chance 1.3 %)" in finished.said


def test_the_loop_goes_through_all_its_stages(finished: Finished) -> None:
    for stage in TRAINED:
        assert (
            newest_good(finished.folder / stage / "checkpoints").name
            == f"step_{finished.steps:08d}"
        )
    facts = json.loads((finished.folder / "data" / "world" / "noise.json").read_text())
    summary = json.loads((finished.folder / "capfilt" / "summary.json").read_text())
    assert (facts["clean"], facts["web"], facts["swapped"]) == (355, 3198, 959)
    assert summary["pairs"] == facts["web"]
    settings = ["--config", str(finished.folder / "pretrain_clean" / "config.yaml")]
    cleaned = parse(RunConfig, settings, description="", examples="")
    assert [Path(place).name for place in cleaned.data.train] == ["capfilt", "clean"]


def test_the_report_needs_nothing_else(finished: Finished) -> None:
    page = (finished.folder / "report.html").read_text()
    assert "://" not in page
    elements = Elements(page)
    pictures = elements.of("img")
    assert len(pictures) > 30
    assert all(str(picture["src"]).startswith("data:image/") for picture in pictures)
    assert len(elements.of("svg")) >= 3 and elements.of("polyline") + elements.of("path")
    linked = [attributes.get("href", "#") for _, attributes in elements.found]
    assert all(str(link).startswith("#") for link in linked)
    assert not elements.of("link") + elements.of("iframe")
    assert all("src" not in script for script in elements.of("script"))
    assert "the right picture among 400 pictures it never saw" in elements.text
    assert f" at step {finished.steps};" in page
    assert "CC BY-SA 4.0" in elements.text


def test_every_stage_is_said_in_order(finished: Finished) -> None:
    places = [finished.said.index(stage) for stage in STAGES]
    assert places == sorted(places)
    assert finished.said.rstrip().endswith(f"open {finished.folder}/report.html")


def test_started_again_it_says_that_all_is_done_and_changes_nothing(finished: Finished) -> None:
    before = contents(finished.folder)
    said = finish(start(finished.folder, finished.steps), 0)
    assert all(stage in said for stage in STAGES)
    results = [
        finished.folder / stage / "evaluation" / task / "results.json"
        for stage in ("pretrain", "pretrain_clean")
        for task in ("retrieval", "caption")
    ]
    for stage in (finished.folder / "data", finished.folder / "capfilt", *results):
        assert f"{stage}: complete, nothing to do" in said
    for stage in TRAINED:
        assert (
            f"{finished.folder / stage}: complete at step {finished.steps}, nothing to do" in said
        )
    after = contents(finished.folder)
    assert before.pop("report.html") and after.pop("report.html")
    assert after == before


def test_a_stage_that_fails_is_the_last(finished: Finished) -> None:
    before = contents(finished.folder)
    said = finish(start(finished.folder, finished.steps, "--train.max_stepz", "4"), 2)
    assert "did you mean 'train.max_steps'?" in said
    assert "3/7" not in said and "Traceback" not in said
    assert contents(finished.folder) == before
