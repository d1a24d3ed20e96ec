"""One optimizer step in two phases: compute and agree, and only then change what lasts."""

import logging
from dataclasses import dataclass, replace

import torch
from torch import nn

from blip_model.layers import multiplied_weights
from blip_model.momentum import Momentum, MomentumFeatures, online_name
from engine.config import RunConfig
from engine.data.augment import normalised
from engine.data.batch import Batch
from engine.data.bounds import room_for_drawn
from engine.data.counter import key_of
from engine.runtime import Runtime
from engine.training import schedule
from engine.training.deepspeed_engine import DeepSpeedEngine
from engine.training.objectives import Objective
from engine.training.optimizer import GuardedAdamW, Told
from engine.training.recorded import RecordedPasses
from kernels import all_gather, seeds_together
from kernels.copies import Copies

log = logging.getLogger(__name__)

DROPOUT = 12
# Of what is NaN where wrong texts do not fit, see `fused_passes`.
MATCHING = "loss_itm"


@dataclass(frozen=True)
class Launched:
    """A step on its way.

    Attributes:
        step: its number.
        batches: this rank's micro-batches.
        features: of each, what the queues get, or None.
        losses: of each, float64 in the order of the objective's.
        told: whether it was taken, once the device knows; None where only the engine can say.
    """

    step: int
    batches: list[Batch]
    features: list[MomentumFeatures | None]
    losses: list[torch.Tensor]
    told: Told | None

    @property
    def busy(self) -> bool:
        """Whether the device has not come to its end yet."""
        return self.told is not None and self.told.coming


class TwoPhaseStep:
    """Takes steps on an online network and the momentum side that follows it, if there is one.

    A step counts whether its weights were accepted or not: step s always reads the slots
    [s * global batch, (s + 1) * global batch) and takes the rate of s, so a poisoned batch is
    passed and never read again. AdamW's own count is that of the accepted ones.

    Args:
        config: of the run.
        runtime: of this process.
        objective: that is trained.
        engine: around the online network.
        momentum: encoders and queues, or None.
        samples: pairs of the data, for the schedules.

    Attributes:
        ahead: a step may be launched before the last one is settled.
    """

    def __init__(
        self,
        config: RunConfig,
        runtime: Runtime,
        objective: Objective,
        engine: DeepSpeedEngine,
        momentum: Momentum | None,
        samples: int,
    ) -> None:
        self.config, self.runtime, self.samples = config, runtime, samples
        self.objective, self.engine, self.momentum = objective, engine, momentum
        self._recorded = engine.recorded
        named = {} if momentum is None else dict(momentum.named_parameters())
        followers = {online_name(name): parameter for name, parameter in named.items()}
        self._followed = list(followers)
        self._follow_in_step = engine.follow_in_step(followers, config.model.momentum)
        # What follows a step, and the next one, are then launched before the host knows whether it
        # was taken: the device goes on by itself.
        alone = runtime.world_size == 1
        self.ahead = alone and self._recorded is not None and self._follow_in_step
        if self.ahead:
            engine.inner_optimizer.waits = True
        self._retaken = False
        on_gpu = runtime.device.type == "cuda"
        self._bringing = torch.cuda.Stream() if self.ahead and on_gpu else None
        self._copies = Copies(self._copied(), torch.bfloat16)
        if isinstance(engine.inner_optimizer, GuardedAdamW):
            engine.inner_optimizer.copies = self._copies

    def _copied(self) -> list[nn.Parameter]:
        """Weights that are kept in bfloat16 too, so that no pass of a step casts them.

        None where they are cast inside of a compiled program, or where DeepSpeed hands them out in
        parts or as the user's configuration says.
        """
        config, engine = self.config, self.engine
        plain = engine.stage < 2 and config.deepspeed.config is None and not config.train.compile
        if config.precision != "bf16" or not plain:
            return []
        return multiplied_weights(engine.model, self.momentum)

    def check_copies(self) -> None:
        """Compare the copies with their weights.

        Raises:
            RuntimeError: they differ.
        """
        self._copies.check()

    def bring(self, batches: list[Batch]) -> list[Batch]:
        """Batches of the next step on the device, copied while it computes where that can be."""
        if self._bringing is None:
            return batches
        with torch.cuda.stream(self._bringing):
            return [batch.to(self.runtime.device) for batch in batches]

    def launch(self, step: int, batches: list[Batch]) -> Launched:
        """Begin a step; collective. With `ahead` the one before need not be settled yet.

        Args:
            step: its number, from 0.
            batches: this rank's micro-batches.
        """
        self._copies.refresh()
        if self._bringing is not None:
            here = torch.cuda.current_stream()
            here.wait_stream(self._bringing)
            for batch in batches:
                # All else was read when a step is settled and lets go of them; the queue takes ids
                # after the device has told of it, and the next batch would come into their place.
                batch.image_id.record_stream(here)
        return self._launch(step, batches, bounded=True)

    def settle(self, launched: Launched) -> tuple[bool, torch.Tensor, bool]:
        """End a step; collective.

        Returns:
            Whether the step was taken: not where a loss or a gradient of any rank was not finite,
            and then nothing was changed; this rank's losses, float64 in the order of the
            objective's; and whether a step that was launched after it has to be launched again,
            as the device has taken none meanwhile.
        """
        accepted = self._accepted(launched)
        void = not accepted
        if void and self._recorded is not None and self._lacked_room(launched):
            launched = self._launch(launched.step, launched.batches, bounded=False)
            accepted = self._accepted(launched)
            if accepted and not self._retaken:
                self._retaken, again = True, "no room for its wrong texts; more like it go untold"
                log.info("step %d taken again: %s", launched.step, again)
        if accepted and not self.ahead:
            self._commit(launched)
        return accepted, torch.stack(launched.losses).mean(0), void

    def _lacked_room(self, launched: Launched) -> bool:
        """Whether wrong texts of any rank did: then all have to take the step again."""
        return self.runtime.any(lacked_room(self.objective.losses, launched.losses))

    def _accepted(self, launched: Launched) -> bool:
        if launched.told is None:
            return self.engine.accepted()
        if launched.told.value():
            return True
        self.engine.inner_optimizer.release()
        return False

    def _launch(self, step: int, batches: list[Batch], *, bounded: bool) -> Launched:
        computed = []
        rate = schedule.learning_rate(self.config.train, step, self.samples)
        for part, batch in enumerate(batches):
            computed.append(self._forward_backward(step, part, batch, bounded=bounded))
            self.engine.step(rate, last=part == len(batches) - 1)
        features, losses = (list(parts) for parts in zip(*computed, strict=True))
        if not self.ahead:
            return Launched(step, batches, features, losses, None)
        launched = Launched(step, batches, features, losses, self.engine.inner_optimizer.told)
        self._commit(launched, launched.told.flag)
        return launched

    def _forward_backward(
        self, step: int, part: int, batch: Batch, *, bounded: bool
    ) -> tuple[MomentumFeatures | None, torch.Tensor]:
        config, train = self.config, self.config.train
        first = step * train.global_batch_size
        first += (part * self.runtime.world_size + self.runtime.rank) * len(batch)
        # No random state is ever saved: dropout is keyed by the micro-batch's first slot, negatives
        # by their group.
        torch.manual_seed(key_of(config.seed, DROPOUT, first) >> 1)
        alpha = schedule.soft_target_weight(
            config.model.alpha, config.model.alpha_ramp_epochs, train, step, self.samples
        )
        # Filled on the device: it changes from step to step, and a program holds for all.
        alpha = torch.full((), alpha, dtype=torch.float64, device=self.runtime.device)
        groups = torch.arange(len(batch) // train.group_size, device=self.runtime.device)
        told = {"alpha": alpha, "group_keys": groups + first // train.group_size}
        # Answers are of any number.
        if self._recorded is None or batch.answers is not None:
            return self._passes(batch.to(self.runtime.device), **told)
        room = None
        if bounded and batch.capacity is not None:
            room = room_for_drawn(batch.capacity, batch.input_ids.numel())
        return self._replayed(self._recorded, batch, told, room, first=part == 0)

    @seeds_together()
    def _passes(
        self,
        there: Batch,
        alpha: torch.Tensor,
        group_keys: torch.Tensor,
        room: int | None = None,
    ) -> tuple[MomentumFeatures | None, torch.Tensor]:
        """Forward and backward of a batch on the device, with room for wrong texts' tokens."""
        pictures, features = normalised(there.image), None
        inputs = (pictures, there.input_ids, there.attention_mask)
        if self.momentum is not None:
            features = self.momentum.features(*inputs, there.capacity)
        contrast = {
            "momentum": features,
            "alpha": alpha,
            "group_size": self.config.train.group_size,
            "seed": self.config.seed,
            "group_keys": group_keys,
            "capacity": there.capacity,
            "drawn_capacity": room,
        }
        losses = self.engine.forward(*inputs, **self.objective.settings(there, contrast))
        trained = [losses[name] for name in self.objective.losses]
        self.engine.backward(sum(trained))
        return features, torch.stack([loss.detach().double() for loss in trained])

    def _replayed(
        self,
        recorded: RecordedPasses,
        batch: Batch,
        told: dict[str, torch.Tensor],
        room: int | None,
        *,
        first: bool,
    ) -> tuple[MomentumFeatures | None, torch.Tensor]:
        """The same through what is recorded of batches of this shape."""
        tensors = batch.flat()
        shape = (batch.capacity, room, *((name, tensor.shape) for name, tensor in tensors.items()))

        def passes(placed: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
            there = replace(batch, **{name: placed[name] for name in tensors})
            features, losses = self._passes(there, *(placed[name] for name in told), room)
            parts = [] if features is None else [features.image_feature, features.text_feature]
            return losses, *parts

        found = recorded.run(shape, tensors | told, passes, first=first)
        # The next micro-batch writes over them.
        losses, *parts = (tensor.clone() for tensor in found)
        features = None if self.momentum is None else self.momentum.beside_queues(*parts)
        return features, losses

    def _commit(self, launched: Launched, taken: torch.Tensor | None = None) -> None:
        """Clamp the temperature; momentum encoders and queues follow, unless not `taken`."""
        self.engine.clamp_temperature_()
        momentum, features, batches = self.momentum, launched.features, launched.batches
        if momentum is None:
            return
        if not self._follow_in_step:
            with self.engine.whole_parameters(self._followed) as online:
                momentum.update(online, self.config.model.momentum)
        # Gathered part by part, ranks side by side: slot order on any number of ranks.
        images = torch.cat([all_gather(f.image_feature) for f in features])
        texts = torch.cat([all_gather(f.text_feature) for f in features])
        ids = None
        if momentum.with_ids:
            there = [batch.image_id.to(self.runtime.device) for batch in batches]
            ids = torch.cat([all_gather(image_id) for image_id in there])
        momentum.enqueue(images, texts, ids, taken)


def lacked_room(names: tuple[str, ...], losses: list[torch.Tensor]) -> bool:
    """Whether wrong texts were drawn that there was no room for: nothing else is not finite."""
    if MATCHING not in names:
        return False
    wrong = ~torch.stack(losses).isfinite()
    return bool((wrong[:, names.index(MATCHING)] & (wrong.sum(1) == 1)).any())
