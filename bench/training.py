"""Whole training steps of both sides: losses, gradients, AdamW, momentum encoders, queues."""

import contextlib
from contextlib import AbstractContextManager

import torch

from bench.original_network import by_products, by_sdpa
from bench.original_step import OriginalPretrain
from bench.pairs import Pairs
from blip_model.config import BlipConfig
from blip_model.momentum import Momentum, MomentumFeatures, online_name
from blip_model.pretrain import BlipPretrain
from engine.config import TrainSection
from engine.training.optimizer import build_optimizer

ALPHA, RATE, MOMENTUM = 0.4, 1e-6, 0.995


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
    """

    def __init__(self, config: BlipConfig, queue_size: int, device: torch.device) -> None:
        self.model = BlipPretrain(config).to(device)
        self.momentum = Momentum(self.model, queue_size).to(device)
        parameters = list(self.model.parameters())
        self.optimizer = build_optimizer(parameters, TrainSection(), RATE)
        self.device, self.steps = device, 0
        # On the device once: a number of the host would be waited for in each step.
        self.alpha = torch.full((), ALPHA, dtype=torch.float64, device=device)
        self.group = torch.zeros(1, dtype=torch.int64, device=device)
        self.passes = {False: (self.momentum.features, self.model.forward)}
        self.one_pass = device.type == "cuda"
        if self.one_pass:
            online = dict(self.model.named_parameters())
            followers = dict(self.momentum.named_parameters())
            pairs = {online[online_name(name)]: p for name, p in followers.items()}
            self.optimizer.follow(pairs, MOMENTUM)

    def loss(
        self, pairs: Pairs, precision: str, *, compiled: bool = False
    ) -> tuple[torch.Tensor, MomentumFeatures]:
        """Sum of the three losses, and what goes into the queues."""
        if compiled and True not in self.passes:
            # As `train.compile` has it.
            settings = {"fullgraph": True, "dynamic": False}
            self.passes[True] = tuple(torch.compile(p, **settings) for p in self.passes[False])
        features_of, forward = self.passes[compiled]
        inputs, shape = pairs.trimmed(), {"capacity": pairs.capacity}
        # What is drawn changes from step to step, and the program does not.
        draw = {"seed": 0, "group_keys": self.group + self.steps}
        with cast(precision, self.device):
            features = features_of(*inputs, **shape)
            losses = forward(*inputs, features, alpha=self.alpha, **draw, **shape)
        return sum(losses.values()), features

    def step(self, pairs: Pairs, precision: str, *, compiled: bool = False) -> None:
        """One training step, as it is written or through `torch.compile`."""
        loss, features = self.loss(pairs, precision, compiled=compiled)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.clamp_temperature_()
        if not self.one_pass:
            self.momentum.update(dict(self.model.named_parameters()), MOMENTUM)
        self.momentum.enqueue(features.image_feature, features.text_feature)
        self.steps += 1


class Original:
    """The original's step, from the same weights as ours.

    Args:
        ours: whose weights it starts from.
        strong: the strong peer: SDPA, negatives at once, fused AdamW, and compiled.
        compiled: of the strong peer; False to try it out without a compiler.
    """

    def __init__(self, ours: Ours, *, strong: bool = False, compiled: bool = True) -> None:
        config, queue_size = ours.model.config, ours.momentum.image_queue.shape[1]
        attend = by_sdpa if strong else by_products
        self.model = OriginalPretrain(config, queue_size, attend=attend, vectorised=strong)
        self.model.load_state_dict({**ours.model.state_dict(), **ours.momentum.state_dict()})
        self.model.to(ours.device)
        if strong and compiled:
            self.model.compute = torch.compile(self.model.compute)
        online = [p for p in self.model.parameters() if p.requires_grad]
        # The original's settings; on a CPU they mean one tensor after the other.
        fused = {"fused": True} if strong else {}
        self.optimizer = torch.optim.AdamW(online, lr=RATE, weight_decay=0.05, **fused)
        self.device = ours.device

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
