"""Recipes: each resolves, says what the paper says, and trains."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.config import RunConfig, to_dict
from launch.cli import parse
from launch.finetune import FinetuneConfig
from tests.forked import succeed
from tests.ranks import ROOT
from tests.runs import metrics, weights
from tests.shards import write_dialogues, write_questions, write_shards, write_statements
from tests.videos import write_video_questions, write_videos

# Recipes of captioning and filtering, the loop, its ablation, and evaluation have their own tests.
EVERY = sorted((ROOT / "launch" / "recipes").glob("*.yaml"))
OTHERS = ("capfilt", "bootstrap", "ablation", "evaluate")
RECIPES = [path for path in EVERY if not any(word in path.stem for word in OTHERS)]
PRETRAINING = ("pretrain_base_14m", "pretrain_base_129m", "pretrain_large_129m")

LOSSES = {
    None: ("itc", "itm", "lm"),
    "caption": ("lm",),
    "retrieval": ("itc", "itm"),
    "nlvr": ("nlvr",),
    "visdial": ("visdial",),
    "vqa": ("lm",),
    "video_retrieval": ("itc", "itm"),
    "video_qa": ("lm",),
}

HEADS = {"caption": "captioner", "retrieval": "filter"}
# Tasks whose data are not pairs.
WRITERS = {"nlvr": write_statements, "visdial": write_dialogues, "vqa": write_questions}
WRITERS |= {"video_retrieval": write_videos, "video_qa": write_video_questions}

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def task(recipe: Path) -> str | None:
    """What a fine-tuning recipe names; pretraining names none."""
    return yaml.safe_load(recipe.read_text()).get("task")


def resolved(*words: object) -> RunConfig:
    """The run of `--config RECIPE ...`."""
    kind = FinetuneConfig if task(Path(str(words[1]))) else RunConfig
    return parse(kind, [str(word) for word in words], description="", examples="")


@each_recipe
def test_a_recipe_prints_what_it_resolves_to(recipe: Path, tmp_path: Path) -> None:
    command = "finetune" if task(recipe) else "pretrain"
    done = subprocess.run(
        [sys.executable, f"launch/{command}.py", "--config", str(recipe), "--print_config"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout) == to_dict(resolved("--config", recipe))
    (tmp_path / "printed.yaml").write_text(done.stdout)
    assert resolved("--config", tmp_path / "printed.yaml") == resolved("--config", recipe)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunConfig]:
    """Every recipe made tiny, trained for two steps one after the other in one process."""
    folder = tmp_path_factory.mktemp("recipes")
    pairs, runs = write_shards(folder / "data", 24), {}
    written = {name: write(folder, 24) for name, write in WRITERS.items()}
    # Fine-tunings start from the first pretraining, at their own picture size.
    for recipe in sorted(RECIPES, key=lambda recipe: task(recipe) is not None):
        data = written.get(task(recipe), pairs)
        words = ["--config", recipe, "--output_dir", folder / recipe.stem, "--data.train", data]
        words += ["--model.preset", "tiny", "--model.init_vision", "null", "--device", "cpu"]
        words += ["--model.init_text", "null", "--train.max_steps", 2, "--train.log_every", 1]
        words += ["--train.global_batch_size", 8, "--train.negative_group_size", 4]
        if task(recipe):
            words += ["--model.checkpoint", folder / PRETRAINING[0], "--model.image_size", 64]
        if task(recipe) == "visdial":
            words += ["--data.max_tokens", 64]
        runs[recipe.stem] = resolved(*words, "--data.workers", 0, "--tensorboard", "false")
        runs[recipe.stem].save(folder / f"{recipe.stem}.yaml")
    succeed("tests.train_many", [folder / f"{name}.yaml" for name in runs], folder / "log")
    return runs


@each_recipe
def test_a_recipe_trains(recipe: Path, trained: dict[str, RunConfig]) -> None:
    config = trained[recipe.stem]
    run = Path(config.output_dir)
    rows = metrics(run)
    assert [row["step"] for row in rows] == [1, 2]
    names = ("itc",) if config.train.contrast_only else LOSSES[task(recipe)]
    assert all(math.isfinite(row[f"loss_{name}"]) for row in rows for name in names)
    tensors = weights(run, 2)
    if {"itc", "itm"} <= set(names):
        assert tensors["image_queue"].shape == (16, config.model.queue_size)
    assert tensors["visual_encoder.pos_embed"].shape[1] == (65 if task(recipe) else 17)
    assert resolved("--config", run / "config.yaml") == config


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_is_the_papers(name: str) -> None:
    """Li et al. 2022, section 4.1, and the original's configs/pretrain.yaml."""
    large = "large" in name
    config = resolved("--config", ROOT / "launch" / "recipes" / f"{name}.yaml")
    model, data, train, network = config.model, config.data, config.train, config.model.network()
    assert model.preset == ("large" if large else "base")
    assert (network.image_size, network.patch_size, network.dropout) == (224, 16, 0.1)
    assert network.vision_drop_path == (0.1 if large else 0.0)
    assert (network.vision_width, network.vision_layers, network.vision_heads) == (
        (1024, 24, 16) if large else (768, 12, 12)
    )
    assert (network.text_width, network.text_layers, network.embed_dim) == (768, 12, 256)
    assert model.init_vision == (
        "timm/vit_large_patch16_224.augreg_in21k" if large else "facebook/deit-base-patch16-224"
    )
    assert model.init_text == "bert-base-uncased"
    assert (model.queue_size, model.momentum) == (57600, 0.995)
    assert (model.alpha, model.alpha_ramp_epochs, model.label_smoothing) == (0.4, 2, 0.1)
    assert (data.max_words, data.max_tokens, data.min_crop_scale) == (30, 30, 0.2)
    assert data.horizontal_flip
    assert data.rand_augment
    assert train.epochs == 20
    assert train.max_steps is None
    assert train.global_batch_size == (2400 if large else 2880)
    # What one of the original's 32 GPUs held.
    assert train.group_size * 32 == train.global_batch_size
    assert train.learning_rate == (2e-4 if large else 3e-4)
    assert (train.min_learning_rate, train.warmup_learning_rate) == (1e-6, 1e-6)
    assert (train.schedule, train.decay, train.warmup_steps) == ("step", 0.9, 3000)
    assert (train.weight_decay, train.betas, train.eps) == (0.05, (0.9, 0.999), 1e-8)
    assert train.clip_norm == 0


def test_the_baseline_is_pretraining_by_contrast_alone() -> None:
    """All that its losses know is as for BLIP, but for the pairs that are contrasted."""
    recipes = ROOT / "launch" / "recipes"
    ours = to_dict(resolved("--config", recipes / "pretrain_clip_style.yaml"))
    blip = to_dict(resolved("--config", recipes / "pretrain_base_14m.yaml"))
    assert ours["train"].pop("contrast_only") and not blip["train"].pop("contrast_only")
    assert ours["train"].pop("negative_group_size") > blip["train"].pop("negative_group_size")
    assert ours["evaluate"].pop("shortlist") == 0 and blip["evaluate"].pop("shortlist")
    assert ours == blip


@pytest.mark.parametrize("kind", ["caption", "retrieval"])
def test_fine_tuning_is_the_papers(kind: str) -> None:
    """Li et al. 2022, section 4.2, and the original's configs/{caption,retrieval}_coco.yaml."""
    recipe = ROOT / "launch" / "recipes" / f"finetune_{HEADS[kind]}.yaml"
    config = resolved("--config", recipe)
    model, data, train, network = config.model, config.data, config.train, config.model.network()
    assert config.task == kind
    assert (model.preset, network.image_size, network.patch_size) == ("base", 384, 16)
    assert (data.max_words, data.min_crop_scale) == (30, 0.5)
    assert data.max_tokens == {"caption": 40, "retrieval": 35}[kind]
    assert data.horizontal_flip and data.rand_augment
    assert train.epochs == {"caption": 5, "retrieval": 6}[kind]
    # 32 pairs on each of 8 GPUs.
    assert (train.global_batch_size, train.group_size, train.max_steps) == (256, 32, None)
    assert (train.learning_rate, train.min_learning_rate, train.warmup_steps) == (1e-5, 0, 0)
    assert (train.schedule, train.weight_decay, train.clip_norm) == ("cosine_epoch", 0.05, 0)
    if kind == "caption":
        assert (model.label_smoothing, config.evaluate.prompt) == (0.1, "a picture of ")
        assert (config.evaluate.num_beams, config.evaluate.max_length) == (3, 20)
        assert config.evaluate.min_length == 5
    else:
        assert (model.queue_size, model.momentum) == (57600, 0.995)
        assert (model.alpha, model.alpha_ramp_epochs) == (0.4, 1)
        assert config.evaluate.shortlist == 256


def test_nlvr_is_the_papers() -> None:
    """Li et al. 2022, section 5.4, and the original's configs/nlvr.yaml and its data set."""
    config = resolved("--config", ROOT / "launch" / "recipes" / "finetune_nlvr.yaml")
    model, data, train, network = config.model, config.data, config.train, config.model.network()
    assert config.task == "nlvr"
    assert (model.preset, network.image_size, network.vision_drop_path) == ("base", 384, 0.1)
    assert (data.max_words, data.min_crop_scale) == (40, 0.5)
    assert data.horizontal_flip and data.rand_augment
    # 16 statements on each of 16 GPUs.
    assert (train.epochs, train.max_steps, train.global_batch_size) == (15, None, 256)
    assert (train.learning_rate, train.min_learning_rate, train.warmup_steps) == (3e-5, 0, 0)
    assert (train.schedule, train.weight_decay, train.clip_norm) == ("cosine_epoch", 0.05, 0)


def test_vqa_is_the_papers() -> None:
    """Li et al. 2022, section 5.3, and the original's configs/vqa.yaml, model and data set."""
    config = resolved("--config", ROOT / "launch" / "recipes" / "finetune_vqa.yaml")
    model, data, train, network = config.model, config.data, config.train, config.model.network()
    assert config.task == "vqa"
    assert (model.preset, network.image_size, network.vision_drop_path) == ("base", 480, 0.1)
    assert (data.max_words, data.max_tokens, data.min_crop_scale) == (50, 35, 0.5)
    assert data.horizontal_flip and data.rand_augment
    # 16 questions on each of 16 GPUs.
    assert (train.epochs, train.max_steps, train.global_batch_size) == (10, None, 256)
    assert (train.learning_rate, train.min_learning_rate, train.warmup_steps) == (2e-5, 0, 0)
    assert (train.schedule, train.weight_decay, train.clip_norm) == ("cosine_epoch", 0.05, 0)
    evaluate = config.evaluate
    assert (model.label_smoothing, evaluate.shortlist, evaluate.num_beams) == (0.1, 128, 3)
    assert (evaluate.min_length, evaluate.max_length) == (1, 10)


def test_visdial_is_the_papers_as_far_as_it_tells() -> None:
    """Li et al. 2022, section 5.5, and the settings that all tasks of it have."""
    config = resolved("--config", ROOT / "launch" / "recipes" / "finetune_visdial.yaml")
    model, data, train, network = config.model, config.data, config.train, config.model.network()
    assert config.task == "visdial"
    assert (model.preset, network.image_size) == ("base", 384)
    assert (data.min_crop_scale, data.rand_augment) == (0.5, True)
    assert data.max_tokens <= network.max_positions
    assert (train.min_learning_rate, train.warmup_steps, train.max_steps) == (0, 0, None)
    assert (train.schedule, train.weight_decay, train.clip_norm) == ("cosine_epoch", 0.05, 0)


def test_every_recipe_says_how_to_run_it() -> None:
    tuning = [f"{run}_{head}" for run in ("finetune", "quickstart") for head in HEADS.values()]
    assert {path.stem for path in RECIPES} >= {*PRETRAINING, "quickstart", *tuning}
    for path in EVERY:
        head = [line for line in path.read_text().splitlines() if line.startswith("#")]
        said = " ".join(head)
        assert f"--config launch/recipes/{path.name}" in said or "quickstart.sh" in said
