"""Replayed functions do what they did when they were called; decoding's stay where they are."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blip_model import slots
from blip_model.beams import Beams
from blip_model.caption import BlipCaption
from blip_model.generate import captions
from blip_model.nucleus import Nucleus
from blip_model.replayed import Replayed
from blip_model.slots import _Held
from blip_model.waiting import Encoded
from tests.tiny import spread, tiny_config

GPU = torch.cuda.is_available()
HOW = (Nucleus(max_length=12, samples=2), Beams(max_length=12, repetition_penalty=1.1))


class Counter:
    """Something that a call changes and reads."""

    def __init__(self, device: str) -> None:
        self.total = torch.zeros(3, device=device)

    def add(
        self, number: torch.Tensor, nothing: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.total += number
        return self.total * 2, nothing


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_call_happens_once(device: str) -> None:
    if device == "cuda" and not GPU:
        pytest.skip("no GPU")
    counter = Counter(device)
    add, expected = Replayed(counter.add), torch.zeros(3)
    for number in range(1, 7):
        expected += number
        doubled, nothing = add(torch.full((3,), float(number), device=device), None)
        assert nothing is None
        torch.testing.assert_close(doubled.cpu(), 2 * expected)
        torch.testing.assert_close(counter.total.cpu(), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("refusals", [1, 2])
def test_without_room_for_a_recording_it_is_called_as_it_is(refusals: int) -> None:
    """Memory that is only kept makes room for the second try."""
    if not GPU:
        pytest.skip("needs an NVIDIA GPU")
    counter, tried = Counter("cuda"), []

    def add(number: torch.Tensor, nothing: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        made = counter.add(number, nothing)
        if torch.cuda.is_current_stream_capturing():
            tried.append(number)
            if len(tried) <= refusals:
                raise torch.OutOfMemoryError("no room")
        return made

    replayed = Replayed(add)
    for number in range(1, 5):
        doubled, _ = replayed(torch.ones(3, device="cuda"), None)
        assert (doubled == 2 * number).all()
    assert len(tried) == 2 and (replayed._graph is None) == (refusals == 2)


def group(model: BlipCaption, how: Nucleus | Beams, count: int) -> Encoded:
    """Pictures that wait."""
    generator = torch.Generator().manual_seed(count)
    config = model.config
    image = torch.randn(count, 3, config.image_size, config.image_size, generator=generator)
    shape = (count, how.rows, how.max_length)
    numbers = torch.rand(shape, generator=generator, dtype=torch.float64)
    ids = torch.full((count, 2), config.bos_token_id)
    ids[:, 1] = 7
    device = next(model.parameters()).device
    with torch.no_grad():
        states = model.encode_image(image.to(device))
    return Encoded(states, ids.to(device), numbers.to(device))


def captioner() -> BlipCaption:
    torch.manual_seed(3)
    model = BlipCaption(tiny_config())
    spread(model)
    return model.eval()


@pytest.mark.parametrize("how", HOW)
@torch.no_grad()
def test_what_a_token_reads_and_changes_stays_where_it_is(how: Nucleus | Beams) -> None:
    model = captioner()
    held, came = _Held(model, how, 3), group(model, how, 3)
    held.admit([0, 1, 2], [(0, 0), (0, 1), (0, 2)], came)

    def places() -> dict[str, int]:
        parts = {"lengths": held.cache.lengths}
        parts |= {f"text {n}": t for n, pair in enumerate(held.cache._text) for t in pair}
        parts |= {n: t for n, t in vars(held.work).items() if isinstance(t, torch.Tensor)}
        pictures = vars(held.cache._pictures).items()
        parts |= {n: t for n, t in pictures if isinstance(t, torch.Tensor)}
        return {name: tensor.data_ptr() for name, tensor in parts.items()}

    before = places()
    assert len(before) > 5
    for _ in range(4):
        held.step(can_shrink=False)
    assert places() == before


class Operations(TorchDispatchMode):
    """Names of what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("how", HOW)
@torch.no_grad()
def test_what_is_recorded_asks_the_host_for_nothing(how: Nucleus | Beams) -> None:
    """A GPU would have to copy a number from it, as for `x[index] = 1`, or to tell it one."""
    model = captioner()
    held, came = _Held(model, how, 3), group(model, how, 3)
    held.admit([0, 1, 2], [(0, 0), (0, 1), (0, 2)], came)
    held.step(can_shrink=False)
    with Operations() as done:
        held._fill(None, came.states, came.prompt_ids)
        held._enter(torch.arange(3), came.states, came.prompt_ids)
        tokens, sources, _ = held._choose(held._logits)
        held._extend(tokens, sources)
    assert "index_fill_" in done.names
    # A CPU's own way to the nucleus reads a number; the kernel does not.
    asking = {"lift_fresh", "nonzero", "masked_select", "_local_scalar_dense"}
    assert done.names & asking <= ({"_local_scalar_dense"} if how is HOW[0] else set())


@pytest.mark.parametrize("how", HOW)
def test_what_was_held_is_let_go_at_once(how: Nucleus | Beams) -> None:
    gc.disable()
    try:
        held = _Held(captioner(), how, 2)
        parts = [weakref.ref(part) for part in (held, held.cache, held.work)]
        del held
        assert [part() for part in parts] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("how", HOW)
def test_the_next_call_like_it_finds_what_was_recorded(how: Nucleus | Beams) -> None:
    """By its name; another number of slots, and weights elsewhere, have another one."""
    model = captioner()
    came = group(model, how, 3)
    name = slots._name(model, how, 3, came)
    assert slots._name(model, how, 3, group(model, how, 3)) == name
    assert slots._name(model, how, 2, came) != name
    with torch.autocast("cpu", torch.bfloat16):
        assert slots._name(model, how, 3, came) != name
    held = _Held(model, how, 3)
    slots._HELD[model] = (name, held)
    assert slots._taken(model, name) is held
    assert slots._taken(model, name) is None
    with torch.no_grad():
        for parameter in model.text_decoder.parameters():
            parameter.data = parameter.data.clone()
    assert slots._name(model, how, 3, came) != name


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("how", HOW)
def test_captions_of_a_replaying_gpu_are_those_of_a_cpu(how: Nucleus | Beams) -> None:
    model = captioner()
    came = group(model, how, 5)
    expected = captions(model, came.states, came.prompt_ids, how, came.uniforms)
    there = (part.cuda() for part in (came.states, came.prompt_ids, came.uniforms))
    states, ids, numbers = there
    assert torch.equal(captions(model.cuda(), states, ids, how, numbers).cpu(), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("how", HOW)
def test_what_a_gpu_recorded_is_used_again_and_never_for_other_weights(
    how: Nucleus | Beams,
) -> None:
    model = captioner()
    groups = [group(model, how, 5), group(model, how, 5), group(model, how, 5)]
    expected = [captions(model, g.states, g.prompt_ids, how, g.uniforms) for g in groups]
    model.cuda()
    used = set()
    for came, want in zip(groups * 2, expected * 2, strict=True):
        there = (part.cuda() for part in (came.states, came.prompt_ids, came.uniforms))
        states, ids, numbers = there
        assert torch.equal(captions(model, states, ids, how, numbers).cpu(), want)
        used.add(slots._HELD[model][1])
    assert len(used) == 1
    for parameter in model.text_decoder.parameters():
        parameter.data = parameter.data * 0.9
    once = captions(model, states, ids, how, numbers)
    torch.cuda.empty_cache()
    other = captioner().cuda()
    for parameter in other.text_decoder.parameters():
        parameter.data = parameter.data * 0.9
    assert torch.equal(once, captions(other, states, ids, how, numbers))
