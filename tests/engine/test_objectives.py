"""What a run trains is built as its settings say, and its forward is told what it needs."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from blip_model import Blip
from engine.config import ConfigError, EvaluateSection, ModelSection, RunConfig, TrainSection
from engine.curriculum import CurriculumStage
from engine.data.section import DataSection
from engine.data.tokenizer import open_tokenizer
from engine.training.objectives import pretraining
from engine.training.tuning import Answering, Captioning, Dialogue, Nlvr, Retrieval
from tests.tiny import spread, tiny_config, write_model

TRAIN = TrainSection(global_batch_size=8, negative_group_size=4)
SECTION = ModelSection(preset="tiny", queue_size=24, label_smoothing=0.3, momentum=0.5)
CONTRAST = {
    "momentum": "features",
    "alpha": "weight",
    "group_size": 4,
    "seed": 0,
    "group_keys": "keys",
    "capacity": 70,
    "drawn_capacity": 90,
}
BATCH = SimpleNamespace(image_id="ids", label="labels", answers="answers")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Of a run that goes on from weights whose temperature is out of bounds."""
    torch.manual_seed(0)
    model = Blip(tiny_config())
    spread(model)
    model.temp.data.fill_(3.0)
    place = write_model(tmp_path_factory.mktemp("objectives") / "weights", model)
    section = replace(SECTION, checkpoint=str(place))
    return RunConfig(model=section, train=TRAIN)


def test_a_pretraining_is_built_as_it_is_told(config: RunConfig) -> None:
    objective = pretraining(config, open_tokenizer(None))
    assert objective.losses == ("loss_itc", "loss_itm", "loss_lm")
    built = objective.build(fresh=True)
    assert built.model.label_smoothing == 0.3
    assert built.momentum.image_queue.shape[1] == 24
    assert built.model.temp.item() == pytest.approx(0.5)
    online = built.model.state_dict()
    for name, tensor in built.momentum.named_parameters():
        root, _, rest = name.partition(".")
        assert torch.equal(tensor, online[f"{root.removesuffix('_m')}.{rest}"])
    assert objective.settings(BATCH, CONTRAST) == CONTRAST


def test_the_baseline_is_contrast_alone(config: RunConfig) -> None:
    baseline = replace(config, train=replace(TRAIN, contrast_only=True))
    objective = pretraining(baseline, open_tokenizer(None))
    assert objective.losses == ("loss_itc",)
    built = objective.build(fresh=True)
    assert built.momentum is None
    assert built.model.temp.item() == pytest.approx(0.5)
    assert objective.settings(BATCH, CONTRAST) == {"group_size": 4}


def test_a_filter_begins_within_the_bounds_of_the_temperature(config: RunConfig) -> None:
    objective = Retrieval(config, open_tokenizer(None))
    built = objective.build(fresh=True)
    assert built.model.temp.item() == pytest.approx(0.5)
    assert built.momentum.image_queue.shape[1] == 24
    assert objective.settings(BATCH, CONTRAST) == {**CONTRAST, "image_id": "ids"}


def test_a_prompt_is_not_scored_and_leaves_room_for_a_word(config: RunConfig) -> None:
    tokenizer = open_tokenizer(None)
    objective = Captioning(config, tokenizer)
    # [CLS] and three words.
    expected = {"prompt_length": 4, "group_size": 4, "capacity": 70}
    assert objective.settings(BATCH, CONTRAST) == expected
    assert objective.build(fresh=True).model.label_smoothing == 0.3
    for prompt, length in ("", 1), ("a photo", 3):
        other = replace(config, evaluate=EvaluateSection(prompt=prompt))
        assert Captioning(other, tokenizer).prompt_length == length
    Captioning(replace(config, data=DataSection(max_tokens=6)), tokenizer)
    stages = [CurriculumStage(until_step=2, max_tokens=5)]
    for data in DataSection(max_tokens=5), DataSection(curriculum=stages):
        with pytest.raises(ConfigError, match=r"evaluate\.prompt takes 4 tokens"):
            Captioning(replace(config, data=data), tokenizer)


def test_other_tasks_are_told_what_is_right(config: RunConfig) -> None:
    tokenizer = open_tokenizer(None)
    assert Nlvr(config, tokenizer).settings(BATCH, CONTRAST) == {"label": "labels"}
    told = {"label": "labels", "capacity": 70}
    assert Dialogue(config, tokenizer).settings(BATCH, CONTRAST) == told
    answering = Answering(config, tokenizer)
    assert answering.settings(BATCH, CONTRAST) == {"answers": "answers", "capacity": 70}
    assert answering.build(fresh=True).model.label_smoothing == 0.3
