"""Starting a network from weights: every name is loaded, left fresh or dropped, and said."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from blip_model import Blip
from blip_model.caption import BlipCaption
from blip_model.config import preset, preset_like
from blip_model.momentum import Momentum
from blip_model.nlvr import BlipNlvr
from blip_model.pretrain import BlipPretrain
from blip_model.retrieval import BlipRetrieval
from blip_model.vqa import BlipVqa
from engine.checkpoint import CheckpointError
from engine.config import ModelSection
from engine.data.tokenizer import packaged_folder
from engine.weights import (
    PACKAGED_TEXT,
    Weights,
    initialise,
    open_weights,
    start_from,
    start_momentum,
)
from tests import golden_files
from tests.tiny import tiny_config, tiny_inputs

PARTS = ("vision_proj", "text_proj", "itm_head")
KINDS = ("weight", "bias")


def golden_weights(name: str) -> dict[str, torch.Tensor]:
    return golden_files.read(name).under("weights.")


def pth(folder: Path, name: str) -> str:
    path = folder / f"{name}.pth"
    torch.save({"model": golden_weights(name), "epoch": 3}, path)
    return str(path)


def test_pretrained_weights_start_every_network(tmp_path: Path) -> None:
    place, config = pth(tmp_path, "pretrain"), golden_files.read("pretrain").config
    golden = golden_weights("pretrain")
    for kind in (BlipPretrain, BlipRetrieval, BlipCaption):
        model = kind(config)
        report = initialise(model, ModelSection(checkpoint=place))
        state = model.state_dict()
        assert all(torch.equal(tensor, golden[name]) for name, tensor in state.items())
        assert set(report.loaded) == set(state)
        assert report.fresh == ()
        assert set(report.dropped) == golden.keys() - state.keys()


def test_a_med_starts_an_answerer_of_two_texts_apart(tmp_path: Path) -> None:
    place, golden = pth(tmp_path, "pretrain"), golden_weights("pretrain")
    model = BlipVqa(golden_files.read("pretrain").config)
    report = initialise(model, ModelSection(checkpoint=place))
    assert report.fresh == ()
    assert all(torch.equal(tensor, golden[name]) for name, tensor in model.state_dict().items())
    # What looks at questions does not fit what looked at wider pictures.
    wide = tiny_config(vision_width=48)
    torch.save({"model": Blip(wide).state_dict()}, tmp_path / "wide.pth")
    model = BlipVqa(wide)
    weights = open_weights(str(tmp_path / "wide.pth"), vision_heads=2)
    looking = "text_decoder.bert.encoder.layer.{}.crossattention.self.{}.weight"
    fresh = {looking.format(layer, name) for layer in range(2) for name in ("key", "value")}
    assert set(start_from(model, weights).fresh) == fresh


def test_an_answerer_is_taken_whole_and_starts_nothing_else(tmp_path: Path) -> None:
    place, config = pth(tmp_path, "vqa"), golden_files.read("vqa").config
    model = BlipVqa(config)
    assert initialise(model, ModelSection(checkpoint=place)).fresh == ()
    golden = golden_weights("vqa")
    assert all(torch.equal(tensor, golden[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(CheckpointError, match="answers questions, which starts nothing else"):
        initialise(BlipCaption(config), ModelSection(checkpoint=place))
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors: text_encoder\."):
        initialise(model, ModelSection(checkpoint=pth(tmp_path, "caption")))


def test_a_med_starts_both_cross_attentions_and_leaves_merging_and_head_fresh(
    tmp_path: Path,
) -> None:
    # Six layers are averaged: the seventh is merged.
    donor = Blip(tiny_config(text_layers=7))
    torch.save({"model": donor.state_dict()}, tmp_path / "med.pth")
    model = BlipNlvr(donor.config)
    drawn = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = initialise(model, ModelSection(checkpoint=str(tmp_path / "med.pth")))
    state, med = model.state_dict(), donor.state_dict()
    merging = "text_encoder.encoder.layer.6.crossattention.output.merge_layer"
    fresh = {f"{part}.{kind}" for part in (merging, "cls_head.0", "cls_head.2") for kind in KINDS}
    assert set(report.fresh) == fresh
    assert all(torch.equal(state[name], drawn[name]) for name in fresh)
    for name in state.keys() - fresh:
        source = name.replace(".self0.", ".self.").replace(".self1.", ".self.")
        source = source.replace(".dense0.", ".dense.").replace(".dense1.", ".dense.")
        assert torch.equal(state[name], med[source]), name
    parts = {name.partition(".")[0] for name in report.dropped}
    assert parts == {*PARTS, "temp", "text_decoder"}


def test_weights_of_two_pictures_are_taken_whole(tmp_path: Path) -> None:
    place, config = pth(tmp_path, "nlvr"), golden_files.read("nlvr").config
    model = BlipNlvr(config)
    report = initialise(model, ModelSection(checkpoint=place))
    golden = golden_weights("nlvr")
    assert report.fresh == report.dropped == ()
    assert all(torch.equal(tensor, golden[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(CheckpointError, match="lacks .* tensors: "):
        initialise(BlipRetrieval(config), ModelSection(checkpoint=place))
    with pytest.raises(CheckpointError, match="lacks .* tensors: text_encoder"):
        initialise(BlipNlvr(config), ModelSection(checkpoint=pth(tmp_path, "caption")))


def test_a_scorer_without_temperature_keeps_a_fresh_one(tmp_path: Path) -> None:
    model = BlipRetrieval(golden_files.read("filter").config)
    report = initialise(model, ModelSection(checkpoint=pth(tmp_path, "filter")))
    assert report.fresh == ("temp",)
    assert model.temp.item() == pytest.approx(0.07)


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    model = BlipPretrain(golden_files.read("retrieval").config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors: text_decoder\.bert\."):
        initialise(model, ModelSection(checkpoint=pth(tmp_path, "retrieval")))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_and_large_ones_are_not(
    tmp_path: Path, number: float
) -> None:
    weights = open_weights(pth(tmp_path, "caption"))
    model = BlipCaption(golden_files.read("caption").config)
    name = "text_decoder.cls.predictions.bias"
    weights.tensors[name] = torch.full_like(weights.tensors[name], 3e38)
    start_from(model, weights)
    weights.tensors[name][0] = number
    with pytest.raises(CheckpointError, match=rf"{name} is not finite: these weights are no good"):
        start_from(model, weights)


def test_weights_of_other_sizes_are_refused_and_pictures_of_other_sizes_resized(
    tmp_path: Path,
) -> None:
    place, config = pth(tmp_path, "caption"), golden_files.read("caption").config
    with pytest.raises(CheckpointError, match=r"text_decoder.*\[64\].*needs \[128\]"):
        start_from(BlipCaption(replace(config, text_intermediate=128)), open_weights(place))
    larger = BlipCaption(replace(config, image_size=64))
    start_from(larger, open_weights(place))
    positions = larger.visual_encoder.pos_embed
    assert positions.shape[1] == 65
    golden = golden_weights("caption")["visual_encoder.pos_embed"]
    assert torch.equal(positions[:, 0], golden[:, 0])


def test_momentum_goes_on_from_pretraining_to_retrieval(tmp_path: Path) -> None:
    weights, golden = open_weights(pth(tmp_path, "pretrain")), golden_weights("pretrain")
    model = BlipRetrieval(golden_files.read("pretrain").config)
    follower = Momentum(model, golden["image_queue"].shape[1], with_ids=True)
    assert start_momentum(follower, weights).fresh == ()
    name = "text_encoder_m.encoder.layer.0.output.dense.weight"
    assert torch.equal(follower.state_dict()[name], golden[name])
    assert torch.equal(follower.image_queue, golden["image_queue"])
    shorter = Momentum(model, 8, with_ids=True)
    report = start_momentum(shorter, weights)
    assert set(report.fresh) == {"image_queue", "text_queue", "ptr_queue", "idx_queue"}
    without = open_weights(pth(tmp_path, "filter"))
    assert start_momentum(follower, without).loaded == ()


def test_towers_start_a_network_and_say_what_stays_fresh(tmp_path: Path) -> None:
    config = tiny_config()
    donor = Blip(tiny_config(image_size=48))
    torch.save({"model": donor.visual_encoder.state_dict()}, tmp_path / "deit.pth")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = transformers.BertForPreTraining(
        transformers.BertConfig(vocab_size=30522, intermediate_size=64, **sizes)
    )
    bert.save_pretrained(tmp_path / "bert")
    torch.manual_seed(1)
    model = BlipPretrain(config)
    drawn = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {"init_vision": str(tmp_path / "deit.pth"), "init_text": str(tmp_path / "bert")}
    report = initialise(model, ModelSection(preset="tiny", **places))
    state, theirs = model.state_dict(), bert.state_dict()
    words = state["text_decoder.bert.embeddings.word_embeddings.weight"]
    assert torch.equal(words[:30522], theirs["bert.embeddings.word_embeddings.weight"])
    assert torch.equal(words[30522:], drawn["text_encoder.embeddings.word_embeddings.weight"][-2:])
    for side in ("text_encoder.", "text_decoder.bert."):
        own = "encoder.layer.1.attention.self.key.weight"
        assert torch.equal(state[side + own], theirs[f"bert.{own}"])
    head = "cls.predictions.transform.dense.weight"
    assert torch.equal(state[f"text_decoder.{head}"], theirs[head])
    fresh = {n for n in state if ".crossattention." in n}
    fresh |= {f"{part}.{kind}" for part in PARTS for kind in ("weight", "bias")} | {"temp"}
    assert set(report.fresh) == fresh
    assert all(torch.equal(state[name], drawn[name]) for name in fresh)
    assert set(report.loaded) == set(state) - fresh
    assert "cls.seq_relationship.bias" in report.dropped
    assert "bert.pooler.dense.weight" in report.dropped


def test_towers_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    donor = Blip(tiny_config(vision_layers=1)).visual_encoder.state_dict()
    torch.save(donor, tmp_path / "short.pth")
    donor = Blip(tiny_config(vision_layers=3)).visual_encoder.state_dict()
    torch.save(donor, tmp_path / "long.pth")
    donor = Blip(tiny_config(vision_width=16)).visual_encoder.state_dict()
    torch.save(donor, tmp_path / "narrow.pth")
    torch.save({"pos_embed": torch.zeros(1, 12, 32)}, tmp_path / "odd.pth")
    torch.save({"something": torch.zeros(1)}, tmp_path / "other.pth")
    model = Blip(tiny_config())
    for key, name, message in [
        ("init_vision", "short.pth", r"lacks 12 tensors: visual_encoder\.blocks\.1\."),
        ("init_vision", "long.pth", r"unexpected 12 tensors: visual_encoder\.blocks\.2\."),
        ("init_vision", "narrow.pth", r"is \[.*16.*\], the network needs"),
        ("init_vision", "odd.pth", "not square grids"),
        ("init_text", "other.pth", "lacks .* tensors: text_decoder"),
        ("init_text", "missing", "no such file or folder"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            initialise(model, ModelSection(preset="tiny", **{key: str(tmp_path / name)}))


def test_the_packaged_text_model_gives_its_states_in_preset_small() -> None:
    section = ModelSection(preset="small", dropout=0.0, init_text=PACKAGED_TEXT)
    model = BlipPretrain(section.network()).eval()
    report = initialise(model, section)
    assert "text_encoder.encoder.layer.2.output.dense.weight" in report.loaded
    assert set(report.dropped) >= {"pooler.dense.weight", "embeddings.token_type_embeddings.weight"}
    bert = transformers.BertModel.from_pretrained(packaged_folder()).eval()
    bert.encoder.layer = bert.encoder.layer[::2]
    _, ids, mask = tiny_inputs(2)
    with torch.no_grad():
        # BLIP leaves token types out; here theirs are silenced for the comparison.
        bert.embeddings.token_type_embeddings.weight.zero_()
        states = model.encode_text(ids, mask)
        theirs = bert(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(states[mask.bool()], theirs[mask.bool()], rtol=1e-4, atol=1e-5)


def test_weights_of_another_preset_are_named() -> None:
    """Whoever takes a recipe of another size is told which one would fit."""
    mini = Blip(preset("mini"))
    weights = Weights("runs/mini", "ours", dict(mini.state_dict()), mini.config)
    with pytest.raises(CheckpointError, match="; give --model.preset mini$"):
        start_from(Blip(preset("tiny")), weights)
    assert preset_like(replace(preset("small"), image_size=384)) == "small"
    assert preset_like(replace(preset("tiny"), vision_layers=3)) is None


@pytest.mark.parametrize("nothing", [None, 5, b"weights"])
def test_what_is_no_name_is_told(nothing: object) -> None:
    with pytest.raises(CheckpointError, match="name a run folder, a file or a model of a hub"):
        open_weights(nothing)
    with pytest.raises(CheckpointError, match="x: File name too long"):
        open_weights("x" * 300)
