"""Captions do not depend on what else is in the slots, and slots do not stay empty."""

from collections.abc import Iterator

import pytest
import torch

from blip_model import slots as slots_module
from blip_model import text_cache
from blip_model.beams import Beams
from blip_model.caption import BlipCaption
from blip_model.generate import captions
from blip_model.nucleus import Nucleus
from blip_model.slots import COMPACT_AT, caption_groups
from blip_model.text_cache import DecodingCache
from blip_model.waiting import Encoded
from kernels.nucleus_draw.reference import inverse_draw, nucleus_probabilities
from kernels.token_scores import shaped
from tests.overwriting import Overwriting
from tests.tiny import tiny_config

COUNT, END, LENGTH = 19, 2, 24
SIZES = {1: [1, 1, 17], 2: [2, 3, 14], 3: [19], 4: [4, 4, 4, 4, 3], 5: [7, 1, 11], 7: [7, 7, 5]}
# Two are let in at once.
SIZES |= {12: [12, 5, 2]}
SAMPLED = Nucleus(max_length=LENGTH, min_length=5, temperature=3.0, samples=2)
SEARCHED = Beams(num_beams=3, max_length=LENGTH, min_length=5, repetition_penalty=1.3)


@pytest.fixture(scope="module")
def model() -> BlipCaption:
    """Its weights are large so that choices are clear, and it likes to end."""
    torch.manual_seed(2)
    model = BlipCaption(
        tiny_config(vocab_size=60, sep_token_id=END, bos_token_id=58, enc_token_id=59)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        model.text_decoder.cls.predictions.bias[END] += 1.0
    return model


@pytest.fixture(scope="module")
def pictures(model: BlipCaption) -> Encoded:
    with torch.no_grad():
        states = model.encode_image(torch.randn(COUNT, 3, 32, 32))
    prompt = torch.randint(3, 58, (COUNT, 4))
    prompt[:, 0] = 58
    return Encoded(states, prompt, torch.rand(COUNT, SAMPLED.samples, LENGTH, dtype=torch.float64))


def plainly(model: BlipCaption, pictures: Encoded, how: Nucleus) -> torch.Tensor:
    """Nucleus sampling by its definition: no cache, a caption at a time."""
    rows = torch.zeros(len(pictures), how.samples, how.max_length, dtype=torch.int64)
    for number in range(len(pictures)):
        for sample in range(how.samples):
            one = pictures.part(number, number + 1)
            ids = one.prompt_ids
            while ids.shape[1] < how.max_length and ids[0, -1] != END:
                logits, length = model.decode(ids, None, one.states)[:, -1], ids.shape[1]
                settings = {"min_length": how.min_length, "penalty": how.repetition_penalty}
                scores = shaped(logits, ids, torch.tensor([length]), end=END, **settings)
                among = nucleus_probabilities(scores / how.temperature, how.top_p, how.top_k)
                token = inverse_draw(among, one.uniforms[:, sample, length])
                ids = torch.cat([ids, token[:, None]], 1)
            rows[number, sample, : ids.shape[1]] = ids[0]
    return rows


@pytest.fixture(scope="module")
@torch.no_grad()
def expected(model: BlipCaption, pictures: Encoded) -> dict[str, torch.Tensor]:
    """Every picture alone."""
    alone = [pictures.part(number, number + 1) for number in range(COUNT)]
    found = {
        "sampled": plainly(model, pictures, SAMPLED),
        "searched": torch.cat(
            [captions(model, one.states, one.prompt_ids, SEARCHED) for one in alone]
        ),
    }
    for rows in found.values():
        lengths = (rows != 0).sum(2).amax(1)
        assert lengths.min() < lengths.max() - 8, "captions end together"
    return found


def grouped(pictures: Encoded, sizes: list[int]) -> Iterator[Encoded]:
    first = 0
    for size in sizes:
        yield pictures.part(first, first + size)
        first += size


@pytest.mark.parametrize("how", [SAMPLED, SEARCHED], ids=["sampled", "searched"])
@pytest.mark.parametrize(
    ("slots", "suffices"), [*((slots, False) for slots in SIZES), (3, True), (7, True)]
)
def test_captions_are_those_of_every_picture_alone(
    model: BlipCaption,
    pictures: Encoded,
    expected: dict[str, torch.Tensor],
    how: Nucleus | Beams,
    slots: int,
    suffices: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_cache, "states_suffice", lambda config, tokens: suffices)
    found = list(caption_groups(model, grouped(pictures, SIZES[slots]), how, slots))
    assert [len(group) for group in found] == SIZES[slots]
    name = "sampled" if how is SAMPLED else "searched"
    assert torch.equal(torch.cat(found), expected[name])


@pytest.mark.parametrize("how", [SAMPLED, SEARCHED], ids=["sampled", "searched"])
@pytest.mark.parametrize("slots", [1, 4, 7, 12])
def test_who_runs_ahead_makes_the_same_captions(
    model: BlipCaption,
    pictures: Encoded,
    expected: dict[str, torch.Tensor],
    how: Nucleus | Beams,
    slots: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a GPU does: the next token is in work before it is known who ended, and replays write
    over what they gave before."""
    monkeypatch.setattr("blip_model.slots.runs_ahead", lambda device: True)
    monkeypatch.setattr("blip_model.slots.Replayed", Overwriting)
    found = list(caption_groups(model, grouped(pictures, SIZES[slots]), how, slots))
    name = "sampled" if how is SAMPLED else "searched"
    assert torch.equal(torch.cat(found), expected[name])


def test_who_runs_ahead_asks_only_when_somebody_can_have_ended(
    model: BlipCaption, pictures: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told = [], slots_module.values_later
    monkeypatch.setattr("blip_model.slots.runs_ahead", lambda device: True)
    monkeypatch.setattr(
        "blip_model.slots.values_later", lambda tensor: asked.append(len(tensor)) or told(tensor)
    )
    states, ids = pictures.states, pictures.prompt_ids
    captions(model, states, ids, Beams(max_length=9, min_length=9))
    assert asked == [COUNT]
    captions(model, states[:3], ids[:3], Beams(max_length=9, min_length=7, repetition_penalty=9.0))
    assert asked[1:] in ([3], [3, 3])


def test_all_at_once_and_in_another_order(
    model: BlipCaption, pictures: Encoded, expected: dict[str, torch.Tensor]
) -> None:
    order = torch.randperm(COUNT)
    mixed = (pictures.states[order], pictures.prompt_ids[order])
    sampled = captions(model, *mixed, SAMPLED, pictures.uniforms[order])
    assert torch.equal(sampled, expected["sampled"][order])
    assert torch.equal(captions(model, *mixed, SEARCHED), expected["searched"][order])


def test_no_slot_is_empty_while_pictures_wait(
    model: BlipCaption, pictures: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer than nine slots a free one is taken at once; at the end they become fewer."""
    extend, admit = DecodingCache.extend, DecodingCache.admit
    sizes, waiting, slots = [], [COUNT], 4

    def watched(cache: DecodingCache, ids: torch.Tensor) -> torch.Tensor:
        sizes.append((waiting[0], cache.slots))
        return extend(cache, ids)

    def counted(cache: DecodingCache, at: torch.Tensor | None, *came: torch.Tensor) -> torch.Tensor:
        waiting[0] -= len(came[0])
        return admit(cache, at, *came)

    monkeypatch.setattr(DecodingCache, "extend", watched)
    monkeypatch.setattr(DecodingCache, "admit", counted)
    rows = torch.cat(list(caption_groups(model, grouped(pictures, SIZES[4]), SAMPLED, slots)))
    # The first token follows the prompt at once, every other one a step.
    steps = (rows != 0).sum(2).amax(1) - pictures.prompt_ids.shape[1] - 1
    assert {size for wait, size in sizes if wait} == {slots}
    assert sum(size for wait, size in sizes if wait) <= int(steps.sum())
    assert sum(1 for wait, _ in sizes if wait) > 10
    assert min(size for _, size in sizes) <= COMPACT_AT * slots


def test_slots_that_hold_nothing_are_refused(model: BlipCaption, pictures: Encoded) -> None:
    with pytest.raises(ValueError, match="0 slots hold no picture"):
        next(caption_groups(model, [pictures], SAMPLED, 0))
    with pytest.raises(ValueError, match="needs numbers to draw by"):
        captions(model, pictures.states, pictures.prompt_ids, SAMPLED)
