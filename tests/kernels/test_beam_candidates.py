"""The best next tokens of beams: those of all scores beside one another."""

import pytest
import torch

from kernels import beam_candidates

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SLOTS, WORDS, LENGTH, END = 2, 1500, 7, 1030


def made(beams: int) -> list[torch.Tensor]:
    """Logits, running scores, ids of which some are there twice, and lengths."""
    generator = torch.Generator().manual_seed(beams)
    rows = SLOTS * beams
    logits = torch.randn(rows, WORDS, generator=generator) * 2
    # Good tokens: the end, which may be forbidden, and some that are there already.
    ids = torch.randint(WORDS, (rows, LENGTH), generator=generator)
    ids[:, 3] = ids[:, 1]
    logits[:, END] = 9.0
    logits.scatter_(1, ids, 8.0 + logits.gather(1, ids) / 8)
    lengths = torch.randint(2, LENGTH, (SLOTS, 1), generator=generator).expand(-1, beams)
    running = torch.randn(SLOTS, beams, generator=generator)
    return [tensor.to(DEVICE) for tensor in (logits, running, ids, lengths.flatten())]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_the_kernel_finds_those_of_the_definition(beams: int, penalty: float) -> None:
    inputs = made(beams)
    for least in (0, int(inputs[3].max())):
        settings = {"end": END, "min_length": least, "penalty": penalty}
        expected = beam_candidates(*inputs, **settings, backend="reference")
        found = beam_candidates(*inputs, **settings, backend="triton")
        torch.testing.assert_close(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert torch.equal(found[2], expected[2])
        assert (found[2] == END).any() or least


def test_beams_that_have_not_begun_stay_behind() -> None:
    logits, running, ids, lengths = made(3)
    running[:, 1:] = -1.0e9
    settings = {"end": END, "min_length": 0, "penalty": 1.0, "backend": "triton"}
    assert (beam_candidates(logits, running, ids, lengths, **settings)[1] == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    logits, running, ids, lengths = made(3)
    settings = {"end": END, "min_length": 0, "penalty": 1.0}
    with pytest.raises(ValueError, match="must be"):
        beam_candidates(logits, running, ids, lengths[:2], **settings)
    with pytest.raises(RuntimeError, match="do not fit a program"):
        beam_candidates(logits[:, :5], running, ids, lengths, **settings, backend="triton")
    with pytest.raises(RuntimeError, match="it takes float32"):
        beam_candidates(logits.half(), running, ids, lengths, **settings, backend="triton")
