"""The step as one program: made once for each of few shapes, and equal to what it was made from."""

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from blip_model.blip import Blip
from blip_model.caption import BlipCaption
from blip_model.momentum import Momentum
from blip_model.pretrain import BlipPretrain
from blip_model.retrieval import BlipRetrieval
from engine.data.bounds import bounded
from tests.tiny import tiny_config, tiny_inputs

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
COUNT, LONGEST, PROGRAMS = 8, 12, 4
# Tracing takes a time for each layer, and a second one tells nothing new.
SHALLOW = {"vision_layers": 1, "text_layers": 1}


@pytest.fixture(autouse=True)
def no_programs_yet() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Step:
    """Forward passes of a network and of its momentum encoders, as they are or compiled."""

    def __init__(self, model: Blip, backend: str | None) -> None:
        self.model = model.to(DEVICE)
        self.momentum = None
        if model.text_encoder is not None:
            torch.manual_seed(1)
            with_ids = isinstance(model, BlipRetrieval)
            self.momentum = Momentum(model, queue_size=11, with_ids=with_ids).to(DEVICE)
        self.counters = [CompileCounterWithBackend(backend) for _ in range(2)] if backend else []
        self.forward = self._compiled(self.model.forward, 0)
        self.features = self._compiled(self.momentum.features, 1) if self.momentum else None

    def _compiled(self, method: object, number: int) -> object:
        if not self.counters:
            return method
        backend = self.counters[number]
        return torch.compile(method, backend=backend, fullgraph=True, dynamic=False)

    def losses(self, number: int, parts: tuple, alpha: float = 0.4) -> dict[str, torch.Tensor]:
        *inputs, capacity = (p.to(DEVICE) if isinstance(p, torch.Tensor) else p for p in parts)
        settings = {"group_size": 4, "capacity": capacity}
        torch.manual_seed(number)
        if self.momentum is not None:
            groups = torch.arange(COUNT // 4, device=DEVICE) + number * COUNT // 4
            settings |= {"momentum": self.features(*inputs, capacity), "group_keys": groups}
            settings["alpha"] = torch.full((), alpha, dtype=torch.float64, device=DEVICE)
        if isinstance(self.model, BlipRetrieval):
            settings["image_id"] = torch.arange(COUNT, device=DEVICE) // 2
        if isinstance(self.model, BlipCaption):
            settings["prompt_length"] = 2
        return self.forward(*inputs, **settings)


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Captions of 3 to 12 tokens, the longest another one in each batch."""
    image, ids, mask = tiny_inputs(COUNT, tokens=7 + number % 6, seed=number)
    return image, *bounded(ids, mask, LONGEST)


def both(kind: type[Blip], backend: str, **changes: object) -> tuple[Step, Step]:
    """The plain and the compiled step from the same weights."""
    steps = []
    for way in (None, backend):
        torch.manual_seed(0)
        steps.append(Step(kind(tiny_config(**changes)), way))
    return steps[0], steps[1]


@pytest.mark.slow
def test_an_epoch_of_varied_captions_makes_few_programs_and_the_next_none() -> None:
    plain, compiled = both(BlipPretrain, "eager", **SHALLOW)
    shapes = set()
    for number in range(40):
        parts, alpha = batch(number), number / 100
        shapes.add((parts[1].shape, parts[3]))
        want = plain.losses(number, parts, alpha)
        for name, loss in compiled.losses(number, parts, alpha).items():
            torch.testing.assert_close(loss, want[name], rtol=1e-6, atol=1e-6)
    made = [counter.frame_count for counter in compiled.counters]
    assert made == [len(shapes)] * 2
    assert 1 < len(shapes) <= PROGRAMS
    for number in range(40, 80):
        compiled.losses(number, batch(number), 0.4)
    assert [counter.frame_count for counter in compiled.counters] == made


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_and_gradients_are_those_of_the_plain_step(precision: str) -> None:
    """Down to the operations of PyTorch, forward and backward, without a code generator."""
    plain, compiled = both(BlipPretrain, "aot_eager", **SHALLOW)
    found = []
    for step in (plain, compiled):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
            losses = step.losses(3, batch(3))
        sum(losses.values()).backward()
        gradients = [p.grad for p in step.model.parameters() if p.grad is not None]
        found.append([*(loss.detach() for loss in losses.values()), *gradients])
    allowed = 2e-5 if precision == "fp32" else 0.06
    assert len(found[0]) == len(found[1]) > 60
    for want, got in zip(*found, strict=True):
        assert (got - want).abs().max() <= allowed * want.abs().max().clamp(min=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BlipRetrieval, BlipCaption])
def test_fine_tuning_is_one_program_too(kind: type[Blip]) -> None:
    plain, compiled = both(kind, "eager", **SHALLOW)
    want = plain.losses(5, batch(5))
    for name, loss in compiled.losses(5, batch(5)).items():
        torch.testing.assert_close(loss, want[name], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_layers_that_run_again_are_in_the_program() -> None:
    plain, compiled = both(BlipPretrain, "aot_eager", **SHALLOW)
    compiled.model.recompute("all")
    gradients = []
    for step in (plain, compiled):
        sum(step.losses(5, batch(5)).values()).backward()
        gradients.append([p.grad for p in step.model.parameters() if p.grad is not None])
    for want, got in zip(*gradients, strict=True):
        assert (got - want).abs().max() <= 2e-5 * want.abs().max().clamp(min=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("backend", [None, "inductor"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_host_never_waits_for_the_device(precision: str, backend: str | None) -> None:
    torch.manual_seed(0)
    step = Step(BlipPretrain(tiny_config()), backend)
    parts = [p.to(DEVICE) if isinstance(p, torch.Tensor) else p for p in batch(3)]

    def take() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
            losses = step.losses(3, tuple(parts))
        sum(losses.values()).backward()

    take()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        take()
    finally:
        torch.cuda.set_sync_debug_mode("default")
