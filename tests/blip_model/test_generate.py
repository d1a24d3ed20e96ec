"""Beams agree with Hugging Face token for token, nucleus sampling in distribution."""

import pytest
import torch
from transformers import BlipConfig as HfConfig
from transformers import BlipForConditionalGeneration

from blip_model import text_cache
from blip_model.beams import Beams
from blip_model.caption import BlipCaption
from blip_model.convert.huggingface import from_huggingface
from blip_model.generate import beam_search, nucleus
from blip_model.text_cache import DecodingCache
from kernels.nucleus_draw.reference import inverse_draw, nucleus_probabilities
from tests.tiny import tiny_config

COUNT, LENGTH = 3, 14


def pair_of_models(seed: int) -> tuple[BlipForConditionalGeneration, BlipCaption]:
    """The same random captioner in both libraries; weights are large so that choices are clear."""
    config = tiny_config(vocab_size=60, sep_token_id=2, bos_token_id=58, enc_token_id=59)
    text = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.text_width,
        "encoder_hidden_size": config.vision_width,
        "intermediate_size": config.text_intermediate,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": config.text_heads,
        "max_position_embeddings": config.max_positions,
        "bos_token_id": config.bos_token_id,
        "sep_token_id": config.sep_token_id,
        "eos_token_id": config.sep_token_id,
        "pad_token_id": config.pad_token_id,
    }
    vision = {
        "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layer_norm_eps": 1e-6,
    }
    torch.manual_seed(seed)
    theirs = BlipForConditionalGeneration(HfConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    ours = BlipCaption(config).eval()
    ours.load_state_dict(from_huggingface(theirs.state_dict()))
    return theirs, ours


@pytest.mark.parametrize(
    ("seed", "suffices"), [(0, True), (1, True), (0, False), (1, False), (2, False)]
)
@pytest.mark.parametrize(
    ("beams", "penalty"), [(1, 1.0), (1, 1.3), (2, 1.0), (3, 1.0), (3, 1.3), (4, 1.0), (5, 1.0)]
)
def test_beams_agree_with_hugging_face(
    beams: int, penalty: float, seed: int, suffices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_cache, "states_suffice", lambda config, tokens: suffices)
    theirs, ours = pair_of_models(seed)
    image = torch.randn(COUNT, 3, 32, 32)
    prompt = torch.tensor([[58, 5, 6, 7]] * COUNT)
    with torch.no_grad():
        # Hugging Face drops the last prompt token, which is [SEP] after tokenizing.
        expected = theirs.generate(
            pixel_values=image,
            input_ids=torch.cat([prompt, torch.full((COUNT, 1), 2)], 1),
            num_beams=beams,
            max_length=LENGTH,
            min_length=6,
            repetition_penalty=penalty,
            do_sample=False,
        )
        states = ours.encode_image(image)
    how = {"num_beams": beams, "max_length": LENGTH, "min_length": 6}
    got = beam_search(ours, states, prompt, **how, repetition_penalty=penalty)
    assert torch.equal(got[:, : expected.shape[1]], expected)
    assert (got[:, expected.shape[1] :] == 0).all()


@pytest.mark.parametrize(
    ("length_penalty", "best"),
    [(0.0, [4, 2, 0]), (0.3, [4, 2, 0]), (1.0, [4, 3, 2]), (2.0, [4, 3, 2])],
)
def test_the_length_penalty_says_what_longer_captions_gain(
    length_penalty: float, best: list[int]
) -> None:
    """One that ends at once, of 0.5, and one of two tokens, of 0.4."""
    config = tiny_config(vocab_size=6, sep_token_id=2, bos_token_id=4, enc_token_id=5)
    how = Beams(num_beams=2, max_length=4, min_length=1, length_penalty=length_penalty)
    work = how.start(config, 1, torch.device("cpu"))
    work.begin(torch.tensor([0]), torch.tensor([[4]]), None)
    for place, shares in (
        (1, [1e-6, 0.1, 0.5, 0.4, 1e-6, 1e-6]),
        (2, [1e-6] * 2 + [1] + [1e-6] * 3),
    ):
        work.choose(torch.tensor([shares] * 2).log(), torch.tensor([place]))
    assert work.result(torch.tensor([0]))[0, 0].tolist() == [*best, 0]


@pytest.mark.parametrize("suffices", [True, False], ids=["states", "keys and values"])
def test_the_cache_gives_the_logits_of_the_whole_sequence(
    suffices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_cache, "states_suffice", lambda config, tokens: suffices)
    _, ours = pair_of_models(3)
    states = ours.encode_image(torch.randn(2, 3, 32, 32))
    ids = torch.tensor([[58, 5, 6, 9, 11], [58, 8, 7, 3, 4]])
    with torch.no_grad():
        whole = ours.decode(ids, None, states)
        cache = DecodingCache(ours, 2, 1, 8)
        steps = [cache.admit(torch.tensor([1, 0]), states, ids[:, :3])]
        steps += [cache.extend(ids[:, i].flip(0)).flip(0) for i in (3, 4)]
    for position, logits in zip((2, 3, 4), steps, strict=True):
        torch.testing.assert_close(logits, whole[:, position], rtol=1e-4, atol=1e-4)


def test_nucleus_keeps_the_fewest_tokens_that_hold_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert nucleus_probabilities(logits, 0.75, 0)[0].tolist() == pytest.approx(
        [0.5 / 0.8, 0.3 / 0.8, 0, 0]
    )
    assert nucleus_probabilities(logits, 1.0, 0)[0].tolist() == pytest.approx(
        [0.5, 0.3, 0.15, 0.05]
    )
    assert nucleus_probabilities(logits, 1.0, 1)[0].tolist() == pytest.approx([1.0, 0, 0, 0])


def test_nucleus_draws_by_its_distribution() -> None:
    _, ours = pair_of_models(4)
    with torch.no_grad():
        states = ours.encode_image(torch.randn(1, 3, 32, 32))
        prompt, draws = torch.tensor([[58, 5]]), 4000
        logits = ours.decode(prompt, None, states)[:, -1] / 2.0
        logits[:, 2] = float("-inf")
        expected = nucleus_probabilities(logits, 0.9, 0)[0]
        generator = torch.Generator().manual_seed(1)
        settings = {"temperature": 2.0, "repetition_penalty": 1.0, "min_length": 5}
        rows = nucleus(
            ours, states, prompt, max_length=3, samples=draws, generator=generator, **settings
        )
    counts = torch.bincount(rows[0, :, 2], minlength=60).double()
    sigma = (draws * expected * (1 - expected)).sqrt().clamp(min=1.0)
    assert ((counts - draws * expected).abs() <= 5 * sigma).all()
    assert (counts[expected == 0] == 0).all()


def test_sampled_captions_end_with_padding_after_the_end() -> None:
    _, ours = pair_of_models(5)
    states = ours.encode_image(torch.randn(4, 3, 32, 32))
    prompt = torch.tensor([[58, 5]] * 4)
    rows = nucleus(ours, states, prompt, max_length=30, min_length=4, temperature=3.0, samples=8)
    ended = 0
    for row in rows.flatten(0, 1).tolist():
        if 2 in row:
            ended += 1
            assert row.index(2) >= 4
            assert not any(row[row.index(2) + 1 :])
    assert ended


def test_inverse_draws_follow_the_distribution_and_never_leave_it() -> None:
    probabilities = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.3, 0.0]])
    count = 10_000
    numbers = torch.arange(count, dtype=torch.float64) / count
    tokens = inverse_draw(probabilities.expand(count, -1), numbers)
    assert torch.bincount(tokens, minlength=6).tolist() == pytest.approx(
        [0, 2000, 0, 5000, 3000, 0], abs=1
    )
    edges = torch.tensor([0.0, 1 - 2.0**-32], dtype=torch.float64)
    assert inverse_draw(probabilities.expand(2, -1), edges).tolist() == [1, 4]
