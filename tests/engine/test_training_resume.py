"""What a run continues from, what it refuses, and what its folder says of it."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from engine.checkpoint import CheckpointError
from engine.config import DataSection, RunConfig, TrainSection, to_dict
from engine.manifest import seal
from engine.training.drift import refuse_drift
from engine.training.schedule import learning_rate
from tests.forked import run, succeed
from tests.runs import metrics, weights, write_config
from tests.shards import picture, write_shards


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run of four steps, checkpoints at 2 and 4."""
    folder = tmp_path_factory.mktemp("done")
    data = write_shards(folder / "data", 48)
    write_config(folder, "run", data, checkpoint={"every": 2}, tensorboard=True)
    succeed("launch.pretrain", ["--config", folder / "run.yaml"], folder / "log")
    return folder


def train(folder: Path, *flags: object) -> tuple[int, str]:
    """The command in a process of its own: its exit code, and what it said."""
    return run("launch.pretrain", ["--config", folder / "run.yaml", *flags], folder / "log")[0]


def complaint(ended: tuple[int, str]) -> str:
    """The one line of a run that was refused."""
    code, said = ended
    assert code == 2, said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    return line


pytestmark = pytest.mark.xdist_group("resume")


def test_a_complete_run_says_so_and_changes_nothing(done: Path) -> None:
    before = (done / "run" / "metrics.jsonl").read_bytes()
    code, said = train(done)
    assert code == 0
    assert "complete at step 4, nothing to do" in said
    assert (done / "run" / "metrics.jsonl").read_bytes() == before


def test_the_rate_that_is_logged_is_the_one_of_the_step(done: Path) -> None:
    settings = TrainSection(**yaml.safe_load((done / "run" / "config.yaml").read_text())["train"])
    rates = [learning_rate(settings, step, 48) for step in range(4)]
    assert len(set(rates)) == 3
    assert [line["lr"] for line in metrics(done / "run")] == rates


def test_resume_none_does_not_write_over_a_run(done: Path) -> None:
    assert "holds a run already" in complaint(train(done, "--resume", "none"))


def test_settings_that_change_the_arithmetic_are_refused_by_name(done: Path) -> None:
    flags = ["--train.learning_rate", "0.5", "--model.momentum", "0.9", "--train.max_steps", "9"]
    line = complaint(train(done, *flags))
    assert "model.momentum 0.995 -> 0.9" in line
    assert "train.learning_rate 0.001 -> 0.5" in line
    assert "max_steps" not in line


@pytest.mark.parametrize("there", ["dali", "torchvision"])
def test_decoders_of_the_same_pixels_may_change_and_those_on_a_device_may_not(there: str) -> None:
    runs = {name: RunConfig(data=DataSection(jpeg_decoder=name)) for name in ("pillow", there)}
    refuse_drift(to_dict(RunConfig()), runs["pillow"], "step_7")
    refuse_drift(to_dict(runs[there]), runs[there], "step_7")
    with pytest.raises(CheckpointError, match=f"data.jpeg_decoder 'auto' -> '{there}'"):
        refuse_drift(to_dict(RunConfig()), runs[there], "step_7")


def test_a_run_from_before_fast_views_keeps_its_own() -> None:
    saved = to_dict(RunConfig())
    del saved["data"]["fast_views"], saved["data"]["curriculum"]
    slow = RunConfig(data=DataSection(fast_views=False))
    refuse_drift(saved, slow, "an old run")
    with pytest.raises(CheckpointError, match="data.fast_views False -> True"):
        refuse_drift(saved, RunConfig(), "an old run")


def test_other_data_is_refused(done: Path, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", 40)
    line = complaint(train(done, "--train.max_steps", "6", "--data.train", str(other)))
    assert "was made on other data" in line


def test_a_path_continues_that_checkpoint_in_a_new_folder(done: Path, tmp_path: Path) -> None:
    first = done / "run" / "checkpoints" / "step_00000002"
    code, said = train(done, "--resume", first, "--output_dir", tmp_path / "branch")
    assert code == 0, said
    assert [line["step"] for line in metrics(tmp_path / "branch")] == [3, 4]
    ours, theirs = weights(tmp_path / "branch", 4), weights(done / "run", 4)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("change", ["missing", "unexpected"])
@pytest.mark.parametrize("file", ["model", "optimizer"])
def test_tensors_that_do_not_fit_are_named(
    done: Path, tmp_path: Path, file: str, change: str
) -> None:
    saved = done / "run" / "checkpoints" / "step_00000004"
    broken = tmp_path / "step_00000004"
    broken.mkdir()
    for path in saved.iterdir():
        if path.name != "manifest.json":
            (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(saved / f"{file}.safetensors")
    name = "image_queue" if file == "model" else "exp_avg.temp"
    tensors["a.stranger" if change == "unexpected" else name] = torch.zeros(1)
    if change == "missing":
        del tensors[name]
    save_file(tensors, broken / f"{file}.safetensors")
    seal(broken)
    flags = ["--resume", str(broken), "--output_dir", str(tmp_path / "new")]
    line = complaint(train(done, "--train.max_steps", "6", *flags))
    assert ("a.stranger" if change == "unexpected" else name) in line


def test_the_folder_repeats_the_run(done: Path, tmp_path: Path) -> None:
    flags = ["--config", done / "run" / "config.yaml", "--output_dir", tmp_path / "again"]
    succeed("launch.pretrain", flags, tmp_path / "log")
    ours, theirs = weights(tmp_path / "again", 4), weights(done / "run", 4)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_the_run_shows_itself(done: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(done / "run" / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("loss_itc")}
    expected = {line["step"]: line["loss_itc"] for line in metrics(done / "run")}
    assert logged == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"gradient_clipping": 2.0}, "'gradient_clipping' is set by the run"),
        ({"zero_optimization": {"stage": 3}}, "the stage is set by deepspeed.stage"),
    ],
)
def test_deepspeed_settings_of_the_run_are_refused(
    done: Path, tmp_path: Path, settings: dict, named: str
) -> None:
    extra = tmp_path / "extra.json"
    extra.write_text(json.dumps(settings))
    flags = ["--deepspeed.config", str(extra), "--output_dir", str(tmp_path / "new")]
    assert named in complaint(train(done, *flags))


def test_bad_samples_of_all_ranks_are_counted_once(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    pairs = [
        {"image": str(data / "missing.png"), "caption": "nothing"}
        if number % 8 == 1
        else {"image": str(tmp_path / f"{number}.png"), "caption": f"pair {number}"}
        for number in range(48)
    ]
    for number in range(48):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    config = write_config(
        tmp_path,
        "run",
        tmp_path / "pairs.json",
        train={"max_steps": 6, "log_every": 3},
        checkpoint={"every": 3, "keep_last": 3},
    )
    ranks = succeed("launch.pretrain", ["--config", config], tmp_path / "log", ranks=2)
    # One epoch: each bad pair was met once, on whichever rank.
    assert metrics(tmp_path / "run")[-1]["bad_samples"] == 6
    last = tmp_path / "run" / "checkpoints" / "step_00000006" / "state.json"
    assert sum(json.loads(last.read_text())["bad_samples"].values()) == 6
    # Said once for all ranks: the first of its kind by name, and the counts at the end.
    said = "\n".join(ranks)
    assert len(re.findall(r"bad sample \S*missing\.png: missing", said)) == 1
    assert said.count("6 bad samples were replaced: 6 missing") == 1


def test_bad_samples_are_counted_on_over_a_stop(tmp_path: Path) -> None:
    """An epoch is a step, with 5 of 40; by the share in the whole run it is refused at the 200th
    sample, as one that was not stopped is."""
    pairs = [{"image": f"{number}.png", "caption": f"pair {number}"} for number in range(40)]
    for number in range(35):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    steps = {"max_steps": 2, "global_batch_size": 40}
    saved = {"every": 2, "keep_last": 2}
    data = tmp_path / "pairs.json"
    write_config(tmp_path, "run", data, train=steps, checkpoint=saved)
    succeed("launch.pretrain", ["--config", tmp_path / "run.yaml"], tmp_path / "log")
    line = complaint(train(tmp_path, "--train.max_steps", 6))
    assert "25 of 200 samples are bad (25 missing)" in line
    lines = metrics(tmp_path / "run")
    assert [line["bad_samples"] for line in lines] == [5, 10, 15, 20]
    assert [line["samples_seen"] for line in lines] == [40, 80, 120, 160]
    last = tmp_path / "run" / "checkpoints" / "step_00000004" / "state.json"
    state = json.loads(last.read_text())
    assert (state["bad_samples"], state["samples_seen"]) == ({"missing": 20}, 160)
