"""DeepSpeed around the online network: ZeRO stages, the guarded step, states made whole."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.utils import ZeRORuntimeException
from deepspeed.utils import (
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import nn

from engine.config import ConfigError, DeepSpeedSection, RunConfig
from engine.training import zero
from engine.training.deepspeed_settings import deepspeed_config, guards_itself, refused
from engine.training.optimizer import build_optimizer
from engine.training.recorded import RecordedPasses

MOMENTS = ("exp_avg", "exp_avg_sq")
REFUSALS = (ValueError, AssertionError, deepspeed.DeepSpeedConfigError, ZeRORuntimeException)
# DeepSpeed would compile an operation for inference between CPUs, which takes a minute.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class DeepSpeedEngine:
    """The wrapped network. Weights are float32 in every stage; bf16 is autocast in its forward.

    Args:
        model: online network, with the weights to start from.
        config: of the run.
        micro_batch: pairs a forward pass on a rank.
        accumulation: forward passes a step.
        learning_rate: of the first step.

    Attributes:
        one_pass_on: kinds of device on which the optimizer takes one pass over memory, and without
            ZeRO momentum weights follow inside of it. A CPU keeps PyTorch's own AdamW, bit by bit.
        records_on: kinds of device on which passes are recorded, under ZeRO 0 and 1.
        guarded: whether the optimizer clips and refuses steps, not DeepSpeed.
    """

    one_pass_on: tuple[str, ...] = ("cuda",)
    records_on: tuple[str, ...] = ("cuda",)

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        micro_batch: int,
        accumulation: int,
        learning_rate: float,
    ) -> None:
        if config.deepspeed.config is None and torch.distributed.get_world_size() == 1:
            # ZeRO shares among ranks: one alone would lay out and gather weights for nothing.
            config = replace(config, deepspeed=DeepSpeedSection(stage=0))
        self.stage = config.deepspeed.stage
        self.model = model
        if model.temp is not None:
            # DeepSpeed cannot broadcast a 0-dim parameter; `whole_parameters` gives it back.
            model.temp = nn.Parameter(model.temp.detach().reshape(1))
        parameters = list(model.parameters())
        settings = deepspeed_config(config, micro_batch, accumulation)
        self.guarded = guards_itself(settings)
        kind = {"guarded": self.guarded, "in_parts": self.stage > 0}
        optimizer = build_optimizer(parameters, config.train, learning_rate, **kind)
        try:
            self.engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=settings, dist_init_required=False
            )
        except REFUSALS as error:
            if config.deepspeed.config is None:
                raise
            raise refused(config, error) from None
        self._alone = self.stage == 0 and torch.distributed.get_world_size() == 1
        if self._alone:
            # Nothing is to be reduced, and DeepSpeed would copy all gradients there and back.
            self.engine.enable_backward_allreduce = False
        self.recorded = self._recording(config)
        if self.recorded is not None and self.stage:
            zero.take_hooks_off(self.engine.optimizer)
        self._share = 1.0 / accumulation
        if self.guarded and self.stage:
            zero.step_on_the_weights(self.engine.optimizer)
            self.inner_optimizer.one_pass = parameters[0].device.type in self.one_pass_on
        self._prepare_moments()

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The network's forward."""
        # What is recorded is the network's own: DeepSpeed counts and looks at things on the host.
        network = self.engine if self.recorded is None else self.model
        return network(*args, **kwargs)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients of a micro-batch's loss; reduced with the step's last one.

        A loss that is not finite makes every gradient so, and thereby the step refused on all
        ranks, also where its own gradient happens to be finite. A finite one is multiplied by 1.
        """
        loss = loss * (loss.detach() * 0 + 1)
        if self.recorded is None:
            self.engine.backward(loss)
        else:
            (loss * self._share).backward()

    def _recording(self, config: RunConfig) -> RecordedPasses | None:
        """What records the passes, where they can be and are to be."""
        wanted, kind = config.train.cuda_graph, next(self.model.parameters()).device.type
        problem = None
        if kind not in self.records_on:
            problem = f"it needs an NVIDIA GPU, and the run is on a {kind}"
        elif not self.guarded or self.stage > 1:
            problem = "gradients are reduced inside of the passes by deepspeed.stage 2 and 3"
        elif config.deepspeed.config is not None:
            problem = "a DeepSpeed configuration may look at every pass"
        elif config.train.compile:
            problem = "train.compile makes programs of its own"
        elif wanted is None and (
            config.train.activation_checkpointing in ("vision", "all") or not self._alone
        ):
            # Neither layers that run again nor several GPUs have been recorded yet.
            return None
        if wanted and problem is not None:
            raise ConfigError(f"train.cuda_graph: {problem}")
        if wanted is False or problem is not None:
            return None
        return RecordedPasses(self.model.parameters())

    def step(self, learning_rate: float, last: bool) -> None:
        """Close a micro-batch; with the last of a step, update the weights.

        A gradient that is not finite on any rank changes nothing on every rank.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        if last and self._alone:
            # As DeepSpeed does where it reduces: what no loss depends on decays like the rest.
            for parameter in self.model.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        if self.recorded is not None and self._alone:
            if last:
                # DeepSpeed would wait to know whether it was taken.
                self.inner_optimizer.step()
                self.inner_optimizer.zero_grad()
            return
        if self.recorded is not None:
            # What DeepSpeed does in its own backward pass, and at the end of it.
            if self.stage and last:
                self.engine.optimizer.setup_buckets()
            self.engine.allreduce_gradients()
        self.engine.step()
        if self.stage and last:
            # DeepSpeed gathers weights through a tensor of its own, which shares their memory.
            torch.autograd.graph.increment_version(list(self.model.parameters()))

    def accepted(self) -> bool:
        """Whether the last step was taken, which may have to be waited for."""
        if self.guarded and self.inner_optimizer.overflow:
            return False
        return (self.recorded is not None and self._alone) or self.engine.was_step_applied()

    def close(self) -> None:
        """Let go of the network: DeepSpeed's hooks on it would keep all of it in memory."""
        self.engine.destroy()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by name; under stage 3 they are shards until gathered."""
        return dict(self.model.named_parameters())

    @contextmanager
    def whole_parameters(
        self, names: Collection[str] | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Weights by name (None: all), whole on every rank while the context lasts."""
        named = self.named_parameters()
        named = {name: named[name] for name in (named if names is None else names)}
        with deepspeed.zero.GatheredParameters(list(named.values()), enabled=self.stage == 3):
            whole = {name: parameter.detach() for name, parameter in named.items()}
            if "temp" in whole:
                whole["temp"] = whole["temp"].reshape(())
            yield whole

    def follow_in_step(self, followers: dict[str, torch.Tensor], momentum: float) -> bool:
        """Have momentum weights follow inside `step`, where that saves passes over memory.

        Only without ZeRO: there the optimizer holds whole weights, and decides whether a step is
        taken before it changes anything, so followers follow accepted steps alone. Followers of
        a part would have to be gathered like the weights, 4 bytes each between GPUs, to save the
        other ranks 12 bytes of their own memory, which is more than three times as fast.

        Args:
            followers: by the name of the parameter that each follows.
            momentum: m.

        Returns:
            Whether they do; otherwise the caller updates them.
        """
        kind = next(self.model.parameters()).device.type
        if self.stage or not self.guarded or kind not in self.one_pass_on:
            return False
        named = self.named_parameters()
        pairs = {named[name]: follower for name, follower in followers.items()}
        self.inner_optimizer.follow(pairs, momentum)
        return True

    def temperature(self) -> float | None:
        """The contrast's; None where there is none. Collective."""
        if self.model.temp is None:
            return None
        with self.whole_parameters(["temp"]) as online:
            return online["temp"].item()

    def clamp_temperature_(self) -> None:
        """Clamp the temperature where there is one, in ZeRO's own copy of it too."""
        temp = self.model.temp
        if temp is None:
            return
        with deepspeed.zero.GatheredParameters([temp], 0, enabled=self.stage == 3):
            self.model.clamp_temperature_()
            value = temp.detach().clone()
        if self.stage == 3:
            safe_set_local_fp32_param(temp, self._shard(value, temp))
        elif self.stage:
            safe_set_full_fp32_param(temp, value)

    def _shard(self, whole: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        """This rank's part under stage 3; DeepSpeed's setter needs sizes that divide."""
        size, rank = parameter.ds_tensor.ds_numel, torch.distributed.get_rank()
        padded = torch.zeros(size * torch.distributed.get_world_size(), device=whole.device)
        padded[: whole.numel()] = whole.flatten()
        return padded[size * rank : size * (rank + 1)]

    def _flat_parameters(self) -> list[torch.Tensor]:
        """The tensors that the inner optimizer steps on."""
        if self.stage == 3:
            return list(self.engine.optimizer.fp32_partitioned_groups_flat)
        inner = self.inner_optimizer
        return [parameter for group in inner.param_groups for parameter in group["params"]]

    @property
    def inner_optimizer(self) -> torch.optim.Optimizer:
        """The AdamW inside."""
        return self.engine.optimizer if self.stage == 0 else self.engine.optimizer.optimizer

    def _prepare_moments(self) -> None:
        """Create AdamW's state before the first step, so that it can always be read and set."""
        inner = self.inner_optimizer
        for parameter in self._flat_parameters():
            zeros = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            # Beside the weights: PyTorch's fused AdamW reads it there.
            inner.state[parameter] = {"step": parameter.new_zeros(()), **zeros}
        if self.stage in (1, 2):
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def moments(self, keep: bool) -> dict[str, torch.Tensor]:
        """AdamW's moments as `exp_avg.NAME` and `exp_avg_sq.NAME`, whole, on the CPU. Collective.

        Args:
            keep: whether this rank wants them; the others only take part.
        """
        state = {}
        for name, parameter in self.named_parameters().items():
            for moment in MOMENTS:
                if self.stage == 0:
                    value = self.inner_optimizer.state[parameter][moment]
                else:
                    value = safe_get_full_optimizer_state(parameter, moment)
                if keep:
                    shape = () if name == "temp" else value.shape
                    state[f"{moment}.{name}"] = value.detach().reshape(shape).cpu().clone()
        return state

    def updates(self) -> int:
        """Updates that AdamW has made."""
        return int(self.inner_optimizer.state[self._flat_parameters()[0]]["step"].item())

    def set_moments(self, state: dict[str, torch.Tensor], updates: int) -> None:
        """Take over what `moments` and `updates` gave, from any stage and number of ranks."""
        for name, parameter in self.named_parameters().items():
            for moment in MOMENTS:
                value = state[f"{moment}.{name}"].to(parameter.device)
                if self.stage == 0:
                    target = self.inner_optimizer.state[parameter][moment]
                    target.copy_(value.reshape(target.shape))
                elif self.stage == 3:
                    shard = self._shard(value, parameter)
                    safe_set_local_optimizer_state(parameter, shard, moment)
                else:
                    safe_set_full_optimizer_state(parameter, value, moment)
        for parameter in self._flat_parameters():
            self.inner_optimizer.state[parameter]["step"].fill_(float(updates))
