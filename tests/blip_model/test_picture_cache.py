"""What is kept of pictures: both kinds decode the same, and what is less work is taken."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from blip_model import text_cache
from blip_model.caption import BlipCaption
from blip_model.config import preset
from blip_model.generate import beam_search
from blip_model.picture_cache import KeptKeysValues, KeptStates, states_suffice
from blip_model.text_cache import DecodingCache
from tests.tiny import spread, tiny_config

KINDS = {True: KeptStates, False: KeptKeysValues}
PROMPT, ROWS, LENGTH = 3, 2, 9
FEW_WORDS = {"vocab_size": 60, "sep_token_id": 2, "bos_token_id": 58, "enc_token_id": 59}


@pytest.fixture(scope="module")
def model() -> BlipCaption:
    """The picture's width is not the text's."""
    torch.manual_seed(0)
    model = BlipCaption(tiny_config(vision_width=48, vision_heads=4, **FEW_WORDS)).eval()
    spread(model)
    return model


@torch.no_grad()
def decoded(model: BlipCaption, suffices: bool, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Logits of slots that are held, while they are taken, reordered, taken again and dropped."""
    monkeypatch.setattr(text_cache, "states_suffice", lambda config, tokens: suffices)
    torch.manual_seed(1)
    size = model.config.image_size
    states = model.encode_image(torch.randn(5, 3, size, size) * 3)
    ids = torch.randint(3, 58, (5, PROMPT))
    cache, found = DecodingCache(model, 4, ROWS, LENGTH), []

    def extend(held: int) -> None:
        logits = cache.extend(torch.randint(3, 58, (cache.slots * ROWS,)))
        found.append(logits[: held * ROWS])

    found.append(cache.admit(torch.tensor([2, 0, 1]), states[:3], ids[:3]))
    extend(3)
    cache.reorder(torch.tensor([1, 0, 3, 3, 4, 5, 6, 7]))
    extend(3)
    found.append(cache.admit(torch.tensor([3, 0]), states[3:], ids[3:]))
    extend(4)
    cache.keep(torch.tensor([3, 1]))
    extend(2)
    assert isinstance(cache._pictures, KINDS[suffices])
    return torch.cat([logits.float() for logits in found])


def test_both_kinds_decode_the_same(model: BlipCaption, monkeypatch: pytest.MonkeyPatch) -> None:
    absorbed, projected = (decoded(model, kind, monkeypatch) for kind in (True, False))
    # Logits of different pictures are far apart beside what is allowed.
    assert (projected[0] - projected[1]).abs().max() > 0.1
    torch.testing.assert_close(absorbed, projected, rtol=1e-5, atol=1e-5)


def test_bf16_is_no_further_from_fp32_than_projecting(
    model: BlipCaption, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = decoded(model, False, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        absorbed, projected = (decoded(model, kind, monkeypatch) for kind in (True, False))
    error, allowed = ((x - truth).square().mean().sqrt() for x in (absorbed, projected))
    assert 0 < error <= 1.5 * allowed


def counted(model: BlipCaption, suffices: bool, monkeypatch: pytest.MonkeyPatch, **how: int) -> int:
    """FLOP of a search, in bf16: the counter does not know the fused attention of fp32."""
    monkeypatch.setattr(text_cache, "states_suffice", lambda config, tokens: suffices)
    config = model.config
    states = torch.zeros(2, config.image_tokens, config.vision_width)
    ids = torch.full((2, PROMPT), 30)
    autocast = torch.autocast("cpu", torch.bfloat16)
    with FlopCounterMode(display=False) as counter, autocast:
        beam_search(model, states, ids, min_length=how["max_length"], **how)
    return counter.get_total_flops()


@pytest.mark.parametrize(("beams", "length"), [(1, 8), (2, 7), (2, 9), (3, 9)])
def test_the_rule_takes_what_is_less_work(
    beams: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**FEW_WORDS)
    model = BlipCaption(config).eval()
    how = {"num_beams": beams, "max_length": length}
    work = {kind: counted(model, kind, monkeypatch, **how) for kind in KINDS}
    tokens = PROMPT + beams * (length - 1 - PROMPT)
    assert states_suffice(config, tokens) == (work[True] <= work[False])


def test_what_the_rule_means_for_vit_b() -> None:
    config = preset("base", image_size=384)
    assert states_suffice(config, 3 + 3 * 16), "three beams of 20 tokens"
    assert not states_suffice(config, 4 + 10 * 15), "ten samples"


def test_states_are_a_24th_of_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a network as wide and with as many layers as BLIP's; narrow, here."""
    config = tiny_config(text_layers=12, **FEW_WORDS)
    model, held = BlipCaption(config).eval(), {}
    for suffices in KINDS:
        monkeypatch.setattr(text_cache, "states_suffice", lambda *_, answer=suffices: answer)
        cache = DecodingCache(model, 2, 1, 8)
        states = torch.zeros(2, config.image_tokens, config.vision_width)
        with torch.no_grad():
            cache.admit(torch.arange(2), states, torch.full((2, PROMPT), 30))
        held[suffices] = sum(tensor.nbytes for tensor in tensors(vars(cache._pictures)))
    assert held[False] == 24 * held[True] == 24 * states.nbytes


def tensors(held: object) -> list[torch.Tensor]:
    """All in nested attributes, lists and tuples."""
    if isinstance(held, torch.Tensor):
        return [held]
    parts = held.values() if isinstance(held, dict) else held
    nested = isinstance(held, dict | list | tuple)
    return [tensor for part in parts for tensor in tensors(part)] if nested else []
