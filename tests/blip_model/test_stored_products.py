"""Weights stored for products: what autocast computes anyway, without its casts and layouts."""

import copy

import pytest
import torch

from blip_model import Blip
from blip_model.generate import beam_search
from blip_model.pair_scores import matching_logits
from blip_model.stored_products import store_products
from kernels.packed_linear import packing_problem
from tests.tiny import spread, tiny_config

PROBLEM = packing_problem(torch.zeros(1, dtype=torch.bfloat16))
needs_packing = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
FEW_WORDS = {"vocab_size": 60, "sep_token_id": 2, "bos_token_id": 58, "enc_token_id": 59}
WORDS = "text_encoder.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def model() -> Blip:
    torch.manual_seed(0)
    model = Blip(tiny_config(**FEW_WORDS)).eval()
    spread(model)
    return model


def stored(model: Blip, backend: str, dtype: torch.dtype = torch.bfloat16) -> Blip:
    """A copy with stored products."""
    model = copy.deepcopy(model)
    store_products(model, dtype, backend=backend)
    return model


@torch.no_grad()
def outputs(model: Blip, precision: str = "bf16") -> list[torch.Tensor]:
    """States of pictures, scores and features of texts, logits; then captions."""
    torch.manual_seed(1)
    size = model.config.image_size
    image, ids = torch.randn(3, 3, size, size), torch.randint(3, 58, (3, 5))
    mask = torch.ones_like(ids)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        states = model.encode_image(image)
        score = model.match(ids, mask, states)
        packed = matching_logits(model, ids, mask, states, torch.ones(3, dtype=torch.int64))
        text = model.text_feature(model.encode_text(ids, mask))
        logits = model.decode(ids, None, states)
        captions = beam_search(model, states, ids[:, :2], max_length=9)
    return [states, score, packed, text, logits, captions]


@torch.no_grad()
def likelihood(model: Blip, captions: torch.Tensor) -> torch.Tensor:
    """[3] log-probabilities in fp32 of what follows two tokens of captions of `outputs`."""
    torch.manual_seed(1)
    size = model.config.image_size
    logits = model.decode(captions, None, model.encode_image(torch.randn(3, 3, size, size)))
    chosen = logits[:, 1:-1].log_softmax(-1).gather(2, captions[:, 2:, None])
    return chosen.sum((1, 2))


def test_stored_weights_compute_the_same_bits(model: Blip) -> None:
    for plain, cast in zip(outputs(model), outputs(stored(model, "reference")), strict=True):
        assert torch.equal(plain, cast)


@needs_packing
def test_packed_weights_are_no_further_from_fp32(model: Blip) -> None:
    truth, plain = outputs(model, "fp32"), outputs(model)
    packed = outputs(stored(model, "onednn"))
    *numbers, captions = zip(truth, plain, packed, strict=True)
    for right, known, found in numbers:
        assert found.dtype == known.dtype
        allowed, error = ((x - right).square().mean().sqrt() for x in (known, found))
        assert 0 < error <= 1.5 * allowed
    # Beams that are nearly alike may change places: what is found is as likely as what fp32 finds,
    # up to what bf16 does to a token's logits (the last of `numbers`).
    likely = [likelihood(model, found) for found in captions]
    assert (likely[0] - likely[2]).max() <= 1.5 * allowed
    assert (likely[0] - likelihood(model, captions[2].flip(1))).min() > 10 * allowed


@needs_packing
def test_packed_weights_round_otherwise_in_fp32_and_no_more(model: Blip) -> None:
    plain = outputs(model, "fp32")
    packed = outputs(stored(model, "onednn", torch.float32), "fp32")
    for known, found in zip(plain, packed, strict=True):
        assert found.dtype == known.dtype
        torch.testing.assert_close(found, known, rtol=1e-5, atol=1e-5)
    for known, cast in zip(
        plain, outputs(stored(model, "reference", torch.float32), "fp32"), strict=True
    ):
        assert torch.equal(known, cast)


@needs_packing
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_bits_are_the_same_with_any_number_of_threads(model: Blip, threads: int) -> None:
    # fp32 products of few rows have others: there the number belongs to a run (engine.capfilt).
    packed, before = stored(model, "onednn"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = outputs(packed)
        torch.set_num_threads(threads)
        shared = outputs(packed)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one, other)


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_keep_names_and_values(model: Blip, dtype: torch.dtype) -> None:
    packed, plain = stored(model, "auto", dtype), stored(model, "reference", dtype)
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    assert all(name in str(packed) for name in ("PackedMlpOutput", "TurnedByHead"))
    assert all(name not in str(plain) for name in ("Packed", "TurnedByHead"))
    # Of packed weights nothing else is held.
    held = {tuple(parameter.shape) for parameter in packed.visual_encoder.blocks.parameters()}
    assert all(len(shape) == 1 for shape in held)
    for again in (packed, copy.deepcopy(packed), packed.to("cpu")):
        state, expected = again.state_dict(), plain.state_dict()
        assert state.keys() == expected.keys()
        for name, tensor in expected.items():
            assert state[name].dtype == tensor.dtype
            assert torch.equal(state[name], tensor)
    again = outputs(copy.deepcopy(packed), precision)
    for found, copied in zip(outputs(packed, precision), again, strict=True):
        assert torch.equal(found, copied)


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_neither_move_nor_change(model: Blip, dtype: torch.dtype) -> None:
    packed, plain = stored(model, "onednn", dtype), stored(model, "reference", dtype)
    for move in (packed.half, packed.double, lambda: packed.to("meta")):
        with pytest.raises(RuntimeError, match="choose device and dtype before they are packed"):
            move()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="weights are packed: load weights before they are"):
            packed.load_state_dict(zeros, strict=strict)
    with pytest.raises(RuntimeError, match="weight is packed: load weights before they are"):
        packed.visual_encoder.blocks[0].load_state_dict({}, strict=False)
    # What was refused has changed nothing.
    state = packed.state_dict()
    for name, tensor in plain.state_dict().items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor)


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_do_not_train(model: Blip, dtype: torch.dtype) -> None:
    packed, size = stored(model, "onednn", dtype), model.config.image_size
    assert not any(parameter.requires_grad for parameter in packed.parameters())
    image = torch.randn(2, 3, size, size, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        # With gradients switched on nobody asks for any.
        assert not packed.encode_image(image).requires_grad
        packed.train().requires_grad_(True)
        with pytest.raises(RuntimeError, match="packed weights give no gradients"):
            packed.encode_image(image)


def test_a_backend_that_cannot_run_is_refused() -> None:
    model = Blip(tiny_config(**FEW_WORDS))
    with pytest.raises(RuntimeError, match="cannot run here: it packs float32 and bfloat16, not"):
        store_products(model, torch.float16, backend="onednn")
    with pytest.raises(ValueError, match="unknown backend 'fast': choose auto, onednn, reference"):
        store_products(model, torch.bfloat16, backend="fast")


def test_what_is_not_multiplied_stays_as_it_was(model: Blip) -> None:
    before, after = model.state_dict(), stored(model, "auto").state_dict()
    assert after[WORDS].dtype == torch.float32
    assert torch.equal(after[WORDS], before[WORDS])
    head = after["text_decoder.cls.predictions.decoder.weight"]
    assert head.dtype == torch.bfloat16
    assert torch.equal(head, before[WORDS].bfloat16())
    norms = [p for name, p in after.items() if "norm" in name.lower()]
    assert norms and all(p.dtype == torch.float32 for p in norms)
