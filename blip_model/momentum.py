"""The momentum encoders and the queues of their features (Li et al. 2021, arXiv:2107.07651).

They lie outside the trained module: every rank holds them whole, in float32, and nothing here
changes during a forward pass. The engine updates and enqueues after an accepted step, which
gives the original's sequence (update at the start of the next forward).
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from blip_model.blip import Blip, unit
from blip_model.packed_text import SharedEmbeddings, first_states
from blip_model.packing import Packing
from kernels import ema_

PARTS = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")
NO_IMAGE_ID = -100


@dataclass(frozen=True)
class MomentumFeatures:
    """What the momentum side gives one forward pass, without gradient.

    Attributes:
        image_feature: [B, E] of the batch.
        text_feature: [B, E] of the batch.
        image_queue: [E, Q] of earlier steps.
        text_queue: [E, Q] of earlier steps.
        id_queue: [Q] int64 picture ids of the queue entries, or None.
    """

    image_feature: torch.Tensor
    text_feature: torch.Tensor
    image_queue: torch.Tensor
    text_queue: torch.Tensor
    id_queue: torch.Tensor | None = None


class Momentum(nn.Module):
    """Frozen copies of the encoders, and queues that start as random unit vectors.

    Args:
        model: the online network; the copies start equal to it.
        queue_size: Q, may be 0.
        with_ids: keep a queue of picture ids (retrieval fine-tuning) beside the features.
    """

    def __init__(self, model: Blip, queue_size: int, *, with_ids: bool = False) -> None:
        super().__init__()
        for part in PARTS:
            setattr(self, f"{part}_m", copy.deepcopy(getattr(model, part)))
        self.requires_grad_(False)
        self.train()
        for name in ("image_queue", "text_queue"):
            queue = torch.nn.functional.normalize(
                torch.randn(model.config.embed_dim, queue_size), dim=0
            )
            self.register_buffer(name, queue)
        self.pointer_name = "ptr_queue" if with_ids else "queue_ptr"
        self.register_buffer(self.pointer_name, torch.zeros(1, dtype=torch.long))
        self.with_ids = with_ids
        if with_ids:
            ids = torch.full((1, queue_size), NO_IMAGE_ID, dtype=torch.long)
            self.register_buffer("idx_queue", ids)

    @torch.no_grad()
    def features(
        self,
        image: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        capacity: int | None = None,
    ) -> MomentumFeatures:
        """Features of a batch, with the queues as they stand; dropout active as in the original.

        Args:
            image: [B, 3, H, W].
            ids: [B, L], [CLS] first.
            mask: [B, L].
            capacity: of tokens, as in `Packing.of`.
        """
        # The online encoder reads the same.
        self.visual_encoder_m.patch_embed.proj.keep_patches(image)
        texts = SharedEmbeddings.of(self.text_encoder_m, ids, Packing.of(mask, capacity))
        return self.beside_queues(
            unit(self.vision_proj_m(self.visual_encoder_m.first_state(image))),
            unit(self.text_proj_m(first_states(texts))),
        )

    def beside_queues(
        self, image_feature: torch.Tensor, text_feature: torch.Tensor
    ) -> MomentumFeatures:
        """Features [B, E] of a batch, with the queues as they stand."""
        ids = self.idx_queue[0] if self.with_ids else None
        return MomentumFeatures(image_feature, text_feature, self.image_queue, self.text_queue, ids)

    @torch.no_grad()
    def update(self, online: dict[str, torch.Tensor], momentum: float) -> None:
        """weights <- momentum * weights + (1 - momentum) * online ones.

        Args:
            online: whole weights of the online network by name; others are passed over.
            momentum: m.

        Raises:
            KeyError: an online weight is missing.
        """
        named = dict(self.named_parameters())
        ema_(list(named.values()), [online[online_name(name)] for name in named], momentum)

    @torch.no_grad()
    def enqueue(
        self,
        image_feature: torch.Tensor,
        text_feature: torch.Tensor,
        image_id: torch.Tensor | None = None,
        taken: torch.Tensor | None = None,
    ) -> None:
        """Write features over the oldest entries; a batch larger than the queue keeps its newest.

        Args:
            image_feature: [N, E] of all ranks, in slot order.
            text_feature: [N, E].
            image_id: [N] int64, needed where ids are kept.
            taken: 0-dim bool on the device, not waited for; where it is False nothing changes.
        """
        size, count = self.image_queue.shape[1], len(image_feature)
        if size == 0:
            return
        pointer = getattr(self, self.pointer_name)
        kept = slice(max(0, count - size), count)
        slots = (pointer + torch.arange(count, device=pointer.device))[kept] % size
        pairs = [(self.image_queue, image_feature[kept].T), (self.text_queue, text_feature[kept].T)]
        if self.with_ids:
            pairs.append((self.idx_queue, image_id[None, kept]))
        for queue, fresh in pairs:
            fresh = fresh.to(queue.dtype)
            queue[:, slots] = fresh if taken is None else torch.where(taken, fresh, queue[:, slots])
        step = count if taken is None else count * taken
        pointer.copy_((pointer + step) % size)


def online_name(momentum_name: str) -> str:
    """`visual_encoder_m.norm.bias` -> `visual_encoder.norm.bias`."""
    root, _, rest = momentum_name.partition(".")
    return f"{root.removesuffix('_m')}.{rest}"
