"""Whole training steps of both sides: losses, gradients, AdamW, momentum encoders, queues."""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from bench.interleaved import Side
from bench.original_network import Layer, VisionBlock, by_products, by_sdpa
from bench.original_step import OriginalPretrain
from bench.pairs import Pairs, pairs
from blip_model.config import BlipConfig, Recomputed
from blip_model.layers import multiplied_weights
from blip_model.momentum import Momentum, MomentumFeatures, online_name
from blip_model.pretrain import BlipPretrain
from engine.config import TrainSection
from engine.data.bounds import room_for_drawn
from engine.runtime import start_apart
from engine.training.optimizer import build_optimizer
from engine.training.recorded import RecordedPasses
from kernels import seeds_together
from kernels.copies import Copies

ALPHA, RATE, MOMENTUM = 0.4, 1e-6, 0.995
# Layers are called with texts of several numbers and with and without pictures and gradients.
PROGRAMS = 64
# Where memory allows, a run is told so (`train.activation_checkpointing none`).
KEEPS_ALL: Recomputed = "none"


def cast(precision: str, device: torch.device) -> AbstractContextManager:
    """What the forward pass runs under."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


class Ours:
    """The engine's step without its loader, logging and DeepSpeed.

    Args:
        config: sizes.
        queue_size: Q.
        device: that it runs on.
        recompute: what the backward pass makes again, by default what a run's does.
    """

    def __init__(
        self,
        config: BlipConfig,
        queue_size: int,
        device: torch.device,
        recompute: Recomputed = "norms",
    ) -> None:
        self.model = BlipPretrain(config).to(device)
        self.model.recompute(recompute)
        self.momentum = Momentum(self.model, queue_size).to(device)
        parameters = list(self.model.parameters())
        self.optimizer = build_optimizer(parameters, TrainSection(), RATE)
        self.device, self.steps, self.told = device, 0, None
        # On the device once: a number of the host would be waited for in each step.
        self.alpha = torch.full((), ALPHA, dtype=torch.float64, device=device)
        self.group = torch.zeros(1, dtype=torch.int64, device=device)
        # Steps in fp32 and bf16 may follow each other; only those in bf16 have copies, as in runs.
        self.copies = self.none = Copies((), torch.bfloat16)
        self.recorded = RecordedPasses(parameters)
        self.one_pass = device.type == "cuda"
        if self.one_pass:
            online = dict(self.model.named_parameters())
            followers = dict(self.momentum.named_parameters())
            pairs = {online[online_name(name)]: p for name, p in followers.items()}
            self.optimizer.follow(pairs, MOMENTUM)

    def loss(self, pairs: Pairs, precision: str) -> tuple[torch.Tensor, MomentumFeatures]:
        """Sum of the three losses, and what goes into the queues."""
        return self._loss(pairs.trimmed(), self.group + self.steps, pairs, precision)

    @seeds_together()
    def _loss(
        self, inputs: tuple[torch.Tensor, ...], group: torch.Tensor, pairs: Pairs, precision: str
    ) -> tuple[torch.Tensor, MomentumFeatures]:
        shape = {"capacity": pairs.capacity}
        with cast(precision, self.device):
            features = self.momentum.features(*inputs, **shape)
            if pairs.capacity is not None:
                # As `engine.training.step` does.
                shape["drawn_capacity"] = room_for_drawn(pairs.capacity, inputs[1].numel())
            losses = self.model(*inputs, features, alpha=self.alpha, group_keys=group, **shape)
        return sum(losses.values()), features

    def step(self, pairs: Pairs, precision: str, *, recorded: bool | None = None) -> None:
        """One training step.

        Args:
            pairs: of the step.
            precision: fp32 or bf16.
            recorded: replay its passes; by default as a run does, on a GPU.
        """
        inputs, group = pairs.trimmed(), self.group + self.steps
        self._keep_copies(precision)

        def passes(placed: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
            *inputs, group = placed.values()
            loss, features = self._loss(tuple(inputs), group, pairs, precision)
            loss.backward()
            return features.image_feature, features.text_feature

        named = dict(zip(("image", "ids", "mask", "group"), (*inputs, group), strict=True))
        recorded = self.device.type == "cuda" if recorded is None else recorded
        if recorded:
            shape = (precision, len(inputs[0]))
            features = self.recorded.run(shape, named, passes, first=True)
        else:
            # A step that was recorded leaves its gradients in their places.
            self.optimizer.zero_grad()
            features = passes(named)
        self.optimizer.step()
        self.model.clamp_temperature_()
        if not self.one_pass:
            self.momentum.update(dict(self.model.named_parameters()), MOMENTUM)
        self.momentum.enqueue(*features, taken=self.optimizer.told.flag)
        # As a run does: the step before is asked for once this one is launched.
        assert self.told is None or self.told.value()
        self.told = self.optimizer.told
        self.steps += 1

    def _keep_copies(self, precision: str) -> None:
        """As a run does before a step."""
        self.optimizer.copies = self.none
        if precision == "bf16":
            if self.copies is self.none:
                weights = multiplied_weights(self.model, self.momentum)
                self.copies = Copies(weights, torch.bfloat16)
            self.copies.refresh()
            self.optimizer.copies = self.copies


class Original:
    """The original's step, from the same weights as ours.

    Args:
        ours: whose weights it starts from.
        strong: the strong peer: SDPA, negatives at once, fused AdamW, layers compiled.
        compiled: of the strong peer; False to try it out without a compiler.
    """

    def __init__(self, ours: Ours, *, strong: bool = False, compiled: bool = True) -> None:
        config, queue_size = ours.model.config, ours.momentum.image_queue.shape[1]
        attend = by_sdpa if strong else by_products
        self.model = OriginalPretrain(config, queue_size, attend=attend, vectorised=strong)
        self.model.load_state_dict({**ours.model.state_dict(), **ours.momentum.state_dict()})
        self.model.to(ours.device)
        if strong and compiled:
            self._compile()
        online = [p for p in self.model.parameters() if p.requires_grad]
        # The original's settings; on a CPU they mean one tensor after the other.
        fused = {"fused": True} if strong else {}
        self.optimizer = torch.optim.AdamW(online, lr=RATE, weight_decay=0.05, **fused)
        self.device = ours.device

    def _compile(self) -> None:
        """Layer by layer, and the contrast: the whole as one program takes minutes to make."""
        torch._dynamo.config.recompile_limit = PROGRAMS
        for module in self.model.modules():
            if isinstance(module, VisionBlock | Layer):
                module.compile(dynamic=False)
        self.model.contrast = torch.compile(self.model.contrast, dynamic=False)

    def loss(self, pairs: Pairs, precision: str) -> torch.Tensor:
        """Sum of the three losses."""
        with cast(precision, self.device):
            return sum(self.model(*pairs.padded(), ALPHA).values())

    def step(self, pairs: Pairs, precision: str) -> None:
        """One training step."""
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
        try:
            self.loss(pairs, precision).backward()
        finally:
            torch.set_float32_matmul_precision("highest")
        self.optimizer.step()
        self.optimizer.zero_grad()


def our_program(
    config: BlipConfig, queue_size: int, count: int, device: torch.device, precisions: Sequence[str]
) -> dict[str, Side]:
    """Our step of `count` pairs in several precisions, and sums of the weights before the first."""
    # As a run begins; on a CPU it keeps freed memory from here on.
    start_apart(device.type)
    torch.manual_seed(0)
    ours = Ours(config, queue_size, device, KEEPS_ALL)
    batch = pairs(config, count, device)
    if device.type == "cuda":
        # What is compiled, tuned and loaded once is, before passes in this precision are recorded.
        for precision in precisions:
            ours.loss(batch, precision)[0].backward()
            ours.optimizer.zero_grad()
    sides: dict[str, Side] = {f"ours {p}": step_of(ours, batch, p) for p in precisions}
    return {**sides, "ours weights": lambda: sums(ours.model, ours.momentum)}


def original_program(
    config: BlipConfig, queue_size: int, count: int, device: torch.device, precisions: Sequence[str]
) -> dict[str, Side]:
    """The same of the original, from the weights that ours begins with."""
    torch.manual_seed(0)
    theirs, batch = Original(Ours(config, queue_size, device)), pairs(config, count, device)
    sides: dict[str, Side] = {f"original {p}": step_of(theirs, batch, p) for p in precisions}
    return {**sides, "original weights": lambda: sums(theirs.model)}


def step_of(trainer: Ours | Original, batch: Pairs, precision: str) -> Side:
    """One training step of a trainer."""
    return lambda: trainer.step(batch, precision)


def sums(*modules: nn.Module) -> dict[str, float]:
    """Of every tensor by name: equal weights have equal ones."""
    named = [pair for module in modules for pair in module.state_dict().items()]
    return {name: tensor.double().sum().item() for name, tensor in named}
