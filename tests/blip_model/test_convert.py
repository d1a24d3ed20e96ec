"""Names and shapes between the original, ours and transformers; outputs stay the same."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import transformers

from blip_model import Blip, BlipConfig
from blip_model.config import preset
from blip_model.convert.huggingface import from_huggingface, to_huggingface
from blip_model.convert.original import from_original, to_original, with_queue_names
from blip_model.convert.shapes import check_shapes, infer_config, with_image_size
from blip_model.momentum import Momentum
from blip_model.positions import resize_positions
from blip_model.vqa import BlipVqa
from tests import golden_files
from tests.tiny import tiny_config, tiny_inputs

GOLDEN = ["pretrain", "retrieval", "caption", "filter", "vqa"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def golden_weights(name: str) -> dict[str, torch.Tensor]:
    return golden_files.read(name).under("weights.")


def theirs(config: BlipConfig) -> transformers.BlipConfig:
    """transformers' configuration of the same network."""
    return transformers.BlipConfig(
        image_text_hidden_size=config.embed_dim,
        vision_config={
            "hidden_size": config.vision_width,
            "intermediate_size": 4 * config.vision_width,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": config.vision_heads,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "layer_norm_eps": 1e-6,
        },
        text_config={
            "vocab_size": config.vocab_size,
            "hidden_size": config.text_width,
            "intermediate_size": config.text_intermediate,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": config.text_heads,
            "max_position_embeddings": config.max_positions,
            "bos_token_id": config.bos_token_id,
            "sep_token_id": config.sep_token_id,
            "eos_token_id": config.sep_token_id,
        },
    )


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("name", GOLDEN)
def test_the_round_trip_over_all_formats_is_equal_to_the_bit(name: str) -> None:
    weights = golden_weights(name)
    ours = from_original(weights)
    classes, rest = to_huggingface(ours)
    back = dict(rest)
    for part in classes.values():
        back |= from_huggingface(part)
    assert_equal(to_original(back), weights)


@pytest.mark.parametrize("name", [*GOLDEN, "nlvr"])
def test_the_golden_networks_are_recognised_from_their_shapes(name: str) -> None:
    weights, golden = from_original(golden_weights(name)), golden_files.read(name).config
    config = infer_config(weights, dropout=golden.dropout)
    # Only the projections tell the width of the shared space.
    if "vision_proj.weight" not in weights:
        config = replace(config, embed_dim=golden.embed_dim)
    assert config == golden
    check_shapes(weights, config)


@pytest.mark.parametrize("name", ["base", "large", "small", "tiny"])
def test_presets_are_recognised_from_their_shapes(name: str) -> None:
    with torch.device("meta"):
        weights = Blip(preset(name)).state_dict()
    assert infer_config(weights) == preset(name)
    check_shapes(weights, preset(name))


@pytest.mark.parametrize("name", ["pretrain", "caption"])
def test_the_captioner_gives_transformers_logits(name: str) -> None:
    trace = golden_files.read(name)
    ours = Blip(trace.config, text_encoder=False)
    weights = from_original(trace.under("weights."))
    ours.load_state_dict({name: weights[name] for name in ours.state_dict()})
    classes, _ = to_huggingface(weights)
    captioner = transformers.BlipForConditionalGeneration(theirs(trace.config)).eval()
    expected_missing = {n for n in captioner.state_dict() if "predictions.decoder." in n}
    keys = captioner.load_state_dict(classes["BlipForConditionalGeneration"], strict=False)
    assert set(keys.missing_keys) == expected_missing and not keys.unexpected_keys
    captioner.tie_weights()
    image, ids, mask = tiny_inputs(3, config=replace(trace.config, vocab_size=205))
    ids = ids % (trace.config.vocab_size - 2)
    ids[:, 0] = trace.config.bos_token_id
    with torch.no_grad():
        logits = ours.eval().decode(ids, mask, ours.encode_image(image))
        out = captioner(pixel_values=image, input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits, out, **CLOSE)


@pytest.mark.parametrize("name", ["pretrain", "retrieval", "filter"])
def test_the_scorer_gives_transformers_scores(name: str) -> None:
    trace = golden_files.read(name)
    weights = from_original(trace.under("weights."))
    ours = Blip(trace.config, text_decoder=False).eval()
    given = {n: weights[n] for n in ours.state_dict() if n in weights}
    assert set(ours.state_dict()) - set(given) <= {"temp"}
    ours.load_state_dict({**ours.state_dict(), **given})
    scorer = transformers.BlipForImageTextRetrieval(theirs(trace.config)).eval()
    scorer.load_state_dict(to_huggingface(weights)[0]["BlipForImageTextRetrieval"])
    image, ids, mask = tiny_inputs(3, config=replace(trace.config, vocab_size=205))
    ids = ids % (trace.config.vocab_size - 2)
    inputs = {"pixel_values": image, "input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        states = ours.encode_image(image)
        match = ours.match(ids, mask, states, write_enc=False)
        image_feature = ours.image_feature(states)
        similarity = image_feature @ ours.text_feature(ours.encode_text(ids, mask)).t()
        torch.testing.assert_close(match, scorer(**inputs).itm_score, **CLOSE)
        itc = scorer(**inputs, use_itm_head=False).itm_score
        torch.testing.assert_close(similarity, itc, **CLOSE)


def test_an_answerer_with_pictures_of_another_width_has_no_place_in_transformers() -> None:
    network = BlipVqa(tiny_config(vision_width=48))
    weights = network.state_dict()
    check_shapes(weights, infer_config(weights, vision_heads=2, dropout=0.0))
    with pytest.raises(ValueError, match="answerer needs pictures as wide as texts"):
        to_huggingface(weights)


def test_transformers_weights_load_strictly_and_give_their_logits() -> None:
    config = tiny_config()
    torch.manual_seed(0)
    captioner = transformers.BlipForConditionalGeneration(theirs(config)).eval()
    with torch.no_grad():
        for parameter in captioner.parameters():
            parameter.normal_(std=0.05)
    ours = Blip(config, text_encoder=False).eval()
    ours.load_state_dict(from_huggingface(captioner.state_dict()))
    image, ids, mask = tiny_inputs(3)
    ids[:, 0] = config.bos_token_id
    with torch.no_grad():
        logits = ours.decode(ids, mask, ours.encode_image(image))
        out = captioner(pixel_values=image, input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits, out, **CLOSE)


@pytest.mark.parametrize("kept", ["decoder.bias", "bias"])
def test_tied_names_are_filled_in_from_whichever_is_there(kept: str) -> None:
    head = "text_decoder.cls.predictions."
    whole = golden_weights("caption")
    gone = {f"{head}{name}" for name in ("bias", "decoder.bias", "decoder.weight")}
    thin = {n: t for n, t in whole.items() if n not in gone - {head + kept}}
    assert_equal(from_huggingface(thin), whole)


def test_position_ids_are_dropped() -> None:
    weights = golden_weights("retrieval")
    ids = torch.arange(24).expand(1, -1)
    more = {f"text_encoder{m}.embeddings.position_ids": ids for m in ("", "_m")}
    assert_equal(from_original(weights | more), weights)


def test_shared_tensors_are_one_in_the_originals_file() -> None:
    separate = {name: tensor.clone() for name, tensor in golden_weights("pretrain").items()}
    shared = to_original(separate)
    assert_equal(shared, separate)
    name = "encoder.layer.0.intermediate.dense.weight"
    assert shared[f"text_decoder.bert.{name}"] is shared[f"text_encoder.{name}"]
    own = "encoder.layer.0.attention.self.query.weight"
    assert shared[f"text_decoder.bert.{own}"] is not shared[f"text_encoder.{own}"]


def test_networks_that_transformers_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="no BLIP that looks at two pictures"):
        to_huggingface(golden_weights("nlvr"))
    alone = {n: t for n, t in golden_weights("filter").items() if n.startswith("visual_encoder.")}
    with pytest.raises(ValueError, match="no BLIP class of visual_encoder"):
        to_huggingface(alone)


def test_a_network_for_two_pictures_is_whole_or_refused() -> None:
    weights, config = golden_weights("nlvr"), golden_files.read("nlvr").config
    assert_equal(to_original(from_original(weights)), weights)
    merging = "text_encoder.encoder.layer.7.crossattention.output.merge_layer.weight"
    for gone in (merging, "cls_head.2.bias", "text_encoder.embeddings.LayerNorm.bias"):
        with pytest.raises(ValueError, match=f"^lacks {gone}$"):
            check_shapes({n: t for n, t in weights.items() if n != gone}, config)
    early = merging.replace("7", "5")
    with pytest.raises(ValueError, match=f"^has unexpected {early}$"):
        check_shapes({**weights, early: weights[merging]}, config)


def test_heads_of_an_unknown_width_must_be_given() -> None:
    network = tiny_config(vision_width=48, text_width=192, text_heads=3, text_intermediate=64)
    weights = Blip(network).state_dict()
    with pytest.raises(ValueError, match="vision_heads must be given"):
        infer_config(weights)
    config = infer_config(weights, vision_heads=2)
    assert (config.vision_heads, config.text_heads) == (2, 3)


def test_queues_take_the_names_of_the_objective() -> None:
    pretrain = golden_weights("pretrain") | {"queue_ptr": torch.tensor([8])}
    retrieval = with_queue_names(pretrain, with_ids=True)
    assert (retrieval["idx_queue"] == -100).all()
    assert retrieval["ptr_queue"].tolist() == [0]
    follower = Momentum(Blip(golden_files.read("pretrain").config), 48, with_ids=True)
    follower.load_state_dict({n: retrieval[n] for n in follower.state_dict()})
    begun = pretrain | {"queue_ptr": retrieval["ptr_queue"]}
    assert_equal(with_queue_names(retrieval, with_ids=False), begun)
    again = golden_weights("retrieval")
    assert_equal(with_queue_names(again, with_ids=True), again)
    assert_equal(
        with_queue_names(golden_weights("caption"), with_ids=True), golden_weights("caption")
    )


def test_positions_are_resized_as_a_picture_and_cls_is_not() -> None:
    positions = torch.randn(1, 1 + 4 * 4, 8)
    assert resize_positions(positions, 17) is positions
    resized = resize_positions(positions, 1 + 6 * 6)
    picture = torch.stack([positions[0, 1:, d].reshape(4, 4) for d in range(8)])[None]
    expected = F.interpolate(picture, size=(6, 6), mode="bicubic", align_corners=False)
    for row in range(6):
        for column in range(6):
            torch.testing.assert_close(
                resized[0, 1 + 6 * row + column], expected[0, :, row, column]
            )
    assert torch.equal(resized[:, 0], positions[:, 0])
    with pytest.raises(ValueError, match="17 -> 18: not square grids"):
        resize_positions(positions, 18)


def test_online_and_momentum_positions_are_resized() -> None:
    weights = golden_weights("pretrain")
    tokens = (48 // 8) ** 2 + 1
    resized = with_image_size(weights, tokens)
    check_shapes(resized, infer_config(resized))
    assert infer_config(resized).image_size == 48
    changed = {name for name in weights if weights[name].shape != resized[name].shape}
    assert changed == {"visual_encoder.pos_embed", "visual_encoder_m.pos_embed"}
