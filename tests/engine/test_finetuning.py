"""Every task trains like a pretraining: ranks, stages, poison, and resuming."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.config import ModelSection, RunConfig, TrainSection
from engine.data.tokenizer import open_tokenizer
from engine.training.tuning import Retrieval
from launch import evaluate
from tests.commands import call
from tests.forked import succeed
from tests.runs import metrics, weights, write_config
from tests.shards import (
    caption,
    picture,
    write_dialogues,
    write_questions,
    write_shards,
    write_statements,
)

TASKS = {
    "caption": ("loss_lm",),
    "retrieval": ("loss_itc", "loss_itm"),
    "nlvr": ("loss_nlvr",),
    "visdial": ("loss_visdial",),
    "vqa": ("loss_lm",),
}
STAGES = {
    "caption": (0, 1, 3),
    "retrieval": (0, 2, 3),
    "nlvr": (0, 2, 3),
    "visdial": (0, 1, 3),
    "vqa": (0, 3),
}
# What a task's pairs do not come in.
DATA = {"nlvr": "statements.json", "visdial": "dialogues.json", "vqa": "questions.json"}
EVALUATED = {
    "caption": 16,
    "retrieval": 16,
    "nlvr": 48,
    "visdial": 48,
    "vqa": 48,
}
TRAIN = "tests.train_many"
TOLERANCE = 1e-4
# Their true gradient is 0: AdamW makes steps of the noise in its place.
KEY_BIASES = ("self.key.bias", "self0.key.bias", "self1.key.bias", "attn.qkv.bias")

pytestmark = pytest.mark.xdist_group("finetuning")
each_task = pytest.mark.parametrize("task", TASKS)


def write_pairs(folder: Path) -> Path:
    """48 captions of 16 pictures, three each, as COCO's annotations have them."""
    rows = []
    for number in range(48):
        name = f"{number % 16}.png"
        (folder / name).write_bytes(picture(number % 16))
        rows.append({"image": name, "caption": caption(number), "image_id": f"x_{number % 16}"})
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder / "pairs.json"


def write_tuning(folder: Path, name: str, task: str, **sections: Any) -> Path:
    """A tiny fine-tuning of the pretraining in `folder`."""
    sections["model"] = {"checkpoint": str(folder / "pretrain")} | sections.get("model", {})
    data = folder / DATA.get(task, "pairs.json")
    return write_config(folder, name, data, task=task, **sections)


def state(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint holds."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    return load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs, a pretraining, and fine-tunings of it in one process."""
    folder = tmp_path_factory.mktemp("finetuning")
    write_pairs(folder)
    write_statements(folder, 48)
    write_questions(folder, 48)
    write_dialogues(folder, 24)
    configs = [write_config(folder, "pretrain", write_shards(folder / "data", 24))]
    for task in TASKS:
        configs.append(write_tuning(folder, f"{task}_ranks1_stage0", task))
        dropout = {"model": {"dropout": 0.1}}
        kept = {"checkpoint": {"every": 2, "keep_last": 9}, **dropout}
        configs.append(write_tuning(folder, f"{task}_whole", task, **kept))
        first = write_tuning(folder, f"{task}_broken", task, train={"max_steps": 2}, **kept)
        configs.append(first.rename(folder / f"{task}_first.yaml"))
        configs.append(write_tuning(folder, f"{task}_broken", task, **kept))
        every = {"train": {"max_steps": 7}, "checkpoint": {"every": 1, "keep_last": 9}}
        configs.append(write_tuning(folder, f"{task}_poisoned", task, **every))
    # The other runs end before the poisoned step.
    succeed(TRAIN, ["--poison", 5, *configs], folder / "said")
    return folder


@pytest.fixture(scope="module")
def spread(pretrained: Path) -> Path:
    """The same fine-tunings on two processes, under several stages."""
    configs = [
        write_tuning(pretrained, f"{task}_ranks2_stage{stage}", task, deepspeed={"stage": stage})
        for task, stages in STAGES.items()
        for stage in stages
    ]
    succeed(TRAIN, configs, pretrained / "said_by_two", ranks=2)
    return pretrained


@pytest.mark.slow
@pytest.mark.parametrize(("task", "stage"), [(t, s) for t, many in STAGES.items() for s in many])
def test_two_processes_train_what_one_does(spread: Path, task: str, stage: int) -> None:
    alone, two = spread / f"{task}_ranks1_stage0", spread / f"{task}_ranks2_stage{stage}"
    for ours, theirs in zip(metrics(two), metrics(alone), strict=True):
        for name in TASKS[task]:
            assert ours[name] == pytest.approx(theirs[name], rel=TOLERANCE), ours["step"]
    reference, ours = weights(alone, 4), weights(two, 4)
    assert set(ours) == set(reference)
    for key, tensor in reference.items():
        if not key.endswith(KEY_BIASES):
            torch.testing.assert_close(ours[key], tensor, rtol=TOLERANCE, atol=TOLERANCE, msg=key)


@each_task
def test_a_continued_run_is_the_same_bit_by_bit(pretrained: Path, task: str) -> None:
    whole, broken = pretrained / f"{task}_whole", pretrained / f"{task}_broken"
    said = (pretrained / "said").read_text()
    assert f"continuing {broken}/checkpoints/step_00000002 at step 2" in said
    for ours, theirs in zip(metrics(broken), metrics(whole), strict=True):
        assert all(ours[name] == theirs[name] for name in ("step", *TASKS[task]))
    ours, theirs = state(broken, 4), state(whole, 4)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@each_task
def test_losses_of_other_tasks_are_null(pretrained: Path, task: str) -> None:
    for line in metrics(pretrained / f"{task}_whole"):
        for name in ("loss_itc", "loss_itm", "loss_lm"):
            assert (line[name] is not None) == (name in TASKS[task])
        assert (line["temperature"] is None) == (task != "retrieval")
        assert line["skipped_steps"] == 0


def test_a_captioner_holds_what_captions_need(pretrained: Path) -> None:
    roots = {name.partition(".")[0] for name in weights(pretrained / "caption_whole", 4)}
    assert roots == {"visual_encoder", "text_decoder"}


def test_a_filter_keeps_pictures_ids_and_goes_on_from_the_momentum_encoders(
    pretrained: Path,
) -> None:
    start, end = weights(pretrained / "pretrain", 4), weights(pretrained / "retrieval_whole", 4)
    roots = {name.partition(".")[0] for name in end}
    assert roots >= {"itm_head", "text_encoder", "text_encoder_m", "idx_queue", "ptr_queue"}
    assert "text_decoder" not in roots
    # The queue of 24 begins anew, whatever pretraining's 32 % 24 = 8, with four batches of eight.
    assert start["queue_ptr"].item() == 8 and end["ptr_queue"].item() == 8
    assert len(end["idx_queue"].unique()) > 8 and (end["idx_queue"] >= 0).all()
    first = weights(pretrained / "retrieval_whole", 2)
    assert torch.equal(first["image_queue"][:, 16:], start["image_queue"][:, 16:])
    assert (first["idx_queue"][0, 16:] == -100).all()
    name = "visual_encoder_m.blocks.0.mlp.fc1.weight"
    # Once before the first step, and after each.
    momentum = 0.995**5
    moved = (end[name] - momentum * start[name]) / (1 - momentum)
    assert (moved - end["visual_encoder.blocks.0.mlp.fc1.weight"]).abs().max() < 0.01


def test_momentum_encoders_of_a_pretraining_move_before_the_first_step(pretrained: Path) -> None:
    section = ModelSection(preset="tiny", checkpoint=str(pretrained / "pretrain"), queue_size=24)
    train = TrainSection(global_batch_size=8, negative_group_size=4)
    config = RunConfig(model=section, train=train)
    built = Retrieval(config, open_tokenizer(None)).build(fresh=True)
    start, moved = weights(pretrained / "pretrain", 4), built.momentum.state_dict()
    for name in ("visual_encoder{}.blocks.0.mlp.fc1.weight", "text_proj{}.weight"):
        before, online = start[name.format("_m")], start[name.format("")]
        assert not torch.equal(before, online)
        expected = 0.995 * before + 0.005 * online
        torch.testing.assert_close(moved[name.format("_m")], expected, rtol=1e-6, atol=1e-8)


def test_what_became_of_the_weights_is_said(pretrained: Path) -> None:
    said = (pretrained / "said").read_text()
    lines = {line for line in said.splitlines() if "tensors loaded" in line}
    # Every fresh start of a task says the same line.
    of_vqa = next(line for line in lines if ": 149 tensors loaded" in line)
    of_visdial = next(line for line in lines if ": 92 tensors loaded" in line)
    of_nlvr, of_retrieval, of_caption = sorted(lines - {of_vqa, of_visdial})
    assert "fresh" not in of_visdial and "text_decoder (63)" in of_visdial
    assert "fresh" not in of_vqa and "itm_head (2)" in of_vqa
    assert of_caption.startswith(f"{pretrained / 'pretrain'}: 93 tensors loaded; left aside: ")
    for part in ("text_encoder (", "itm_head (2)", "visual_encoder_m (", "image_queue (1)"):
        assert part in of_caption
    # Momentum encoders and queues go on, the pointer under its other name.
    assert of_retrieval.endswith("left aside: text_decoder (63)")
    assert of_nlvr.endswith("; fresh: cls_head (4)")


@each_task
def test_a_tuned_run_is_evaluated_by_its_own_settings(
    pretrained: Path, tmp_path: Path, task: str
) -> None:
    run, data = pretrained / f"{task}_whole", pretrained / DATA.get(task, "pairs.json")
    words = ["--config", run / "config.yaml", "--model.checkpoint", run, "--data.eval", data]
    words += ["--evaluate.num_beams", 1, "--evaluate.min_length", 1, "--output_dir"]
    done = call(evaluate.main, *words, tmp_path / "own")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "own" / "results.json").read_text())
    assert (results["task"], results["count"]) == (task, EVALUATED[task])
    other = {"caption": "retrieval"}.get(task, "caption")
    words[words.index("--data.eval") + 1] = pretrained / "pairs.json"
    refused = call(evaluate.main, *words, tmp_path / "other", "--task", other)
    assert refused.code == 2
    assert "these weights cannot" in refused.err


@each_task
def test_a_poisoned_batch_changes_nothing(pretrained: Path, task: str) -> None:
    run = pretrained / f"{task}_poisoned"
    said = (pretrained / "said").read_text()
    assert said.count("step 6 was not finite and changed nothing") == len(TASKS)
    before, after, last = (state(run, step) for step in (5, 6, 7))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(not torch.equal(last[name], tensor) for name, tensor in after.items())
    assert all(tensor.isfinite().all() for tensor in last.values() if tensor.is_floating_point())
    assert [line["skipped_steps"] for line in metrics(run)] == [0, 0, 0, 0, 0, 1, 1]
    assert metrics(run)[5][TASKS[task][0]] is None


@pytest.fixture(scope="module")
def ahead(pretrained: Path) -> Path:
    """Fine-tunings whose host goes ahead of its device, and such as wait; step 2 is refused."""
    train = {"max_steps": 5, "log_every": 5, "micro_batch_size": 4}
    dropout = {"model": {"dropout": 0.1}}
    for name, words in (("inside", []), ("ahead", ["--record"])):
        configs = [
            write_tuning(pretrained, f"{task}_{name}", task, train=train, **dropout)
            for task in TASKS
        ]
        said = pretrained / f"said_{name}"
        succeed(TRAIN, ["--poison", 2, "--follow", *words, *configs], said)
    return pretrained


@pytest.mark.slow
@each_task
def test_a_run_that_goes_ahead_is_the_same_bit_by_bit(ahead: Path, task: str) -> None:
    ours, theirs = (metrics(ahead / f"{task}_{name}")[0] for name in ("ahead", "inside"))
    assert ours["skipped_steps"] == theirs["skipped_steps"] == 1
    assert all(ours[name] == theirs[name] for name in TASKS[task])
    ours, theirs = (state(ahead / f"{task}_{name}", 5) for name in ("ahead", "inside"))
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
