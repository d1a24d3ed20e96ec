"""The original BLIP's pretraining step in plain PyTorch, equal to the golden traces.

Our rendering of salesforce/BLIP (models/blip_pretrain.py) with its costs: six text passes padded
to 30 tokens, picture keys and values projected in each, similarities materialised, negatives drawn
and stacked one by one on the host, momentum and queues changed inside the forward pass.
`vectorised=True` with `by_sdpa` is the strong peer: the same step as somebody in a hurry improves
it, without changing what is computed.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from bench.original_network import (
    Attend,
    TextDecoder,
    TextTransformer,
    VisionTransformer,
    by_products,
)
from blip_model.config import BlipConfig

PARTS = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")
MAX_TOKENS = 30


class OriginalPretrain(nn.Module):
    """A batch to its three losses.

    Args:
        config: sizes.
        queue_size: Q; a multiple of every batch.
        attend: how attention is computed.
        vectorised: draw all negatives at once on the device, take them by index, update momentum
            by foreach.
        greedy: take the likeliest negative, as the golden traces do, instead of drawing.
    """

    def __init__(
        self,
        config: BlipConfig,
        queue_size: int,
        *,
        attend: Attend = by_products,
        vectorised: bool = False,
        greedy: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.queue_size = config, queue_size
        self.vectorised, self.greedy, self.momentum = vectorised, greedy, 0.995
        self.visual_encoder = VisionTransformer(config, attend)
        self.text_encoder = TextTransformer(config, attend)
        self.text_decoder = TextDecoder(config, attend, self.text_encoder)
        self.vision_proj = nn.Linear(config.vision_width, config.embed_dim)
        self.text_proj = nn.Linear(config.text_width, config.embed_dim)
        self.itm_head = nn.Linear(config.text_width, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))
        for part in PARTS:
            setattr(self, f"{part}_m", copy.deepcopy(getattr(self, part)).requires_grad_(False))
        for name in ("image_queue", "text_queue"):
            queue = F.normalize(torch.randn(config.embed_dim, queue_size), dim=0)
            self.register_buffer(name, queue)
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.drawn: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(
        self, image: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, alpha: float
    ) -> dict[str, torch.Tensor]:
        """Losses; updates the momentum encoders before and the queues after, as the original.

        Args:
            image: [B, 3, H, W].
            ids: [B, 30], [CLS] first, padded.
            mask: [B, 30].
            alpha: weight of the soft targets.
        """
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
            self.update_momentum()
        losses, image_feature_m, text_feature_m = self.compute(image, ids, mask, alpha)
        self.enqueue(image_feature_m, text_feature_m)
        return losses

    def compute(
        self, image: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, alpha: float
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Losses and the momentum features, nothing changed."""
        states = self.visual_encoder(image)
        image_feature = F.normalize(self.vision_proj(states[:, 0]), dim=-1)
        text_feature = F.normalize(self.text_proj(self.text_encoder(ids, mask)[:, 0]), dim=-1)
        with torch.no_grad():
            image_m = F.normalize(self.vision_proj_m(self.visual_encoder_m(image)[:, 0]), dim=-1)
            text_m = F.normalize(self.text_proj_m(self.text_encoder_m(ids, mask)[:, 0]), dim=-1)
        loss, i2t, t2i = self.contrast(image_feature, text_feature, image_m, text_m, alpha)
        losses = {
            "loss_itc": loss,
            "loss_itm": self.matching(ids, mask, states, i2t, t2i),
            "loss_lm": self.captioning(ids, mask, states),
        }
        return losses, image_m, text_m

    def contrast(
        self,
        image_feature: torch.Tensor,
        text_feature: torch.Tensor,
        image_m: torch.Tensor,
        text_m: torch.Tensor,
        alpha: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, and similarities [B, B + Q] of pictures to texts and of texts to pictures."""
        with torch.no_grad():
            images = torch.cat([image_m.t(), self.image_queue.clone().detach()], 1)
            texts = torch.cat([text_m.t(), self.text_queue.clone().detach()], 1)
            targets_i2t = self.soft_targets(image_m @ texts / self.temp, alpha)
            targets_t2i = self.soft_targets(text_m @ images / self.temp, alpha)
        i2t = image_feature @ texts / self.temp
        t2i = text_feature @ images / self.temp
        loss_i2t = -torch.sum(F.log_softmax(i2t, 1) * targets_i2t, 1).mean()
        loss_t2i = -torch.sum(F.log_softmax(t2i, 1) * targets_t2i, 1).mean()
        return (loss_i2t + loss_t2i) / 2, i2t, t2i

    def soft_targets(self, similarity: torch.Tensor, alpha: float) -> torch.Tensor:
        """[B, B + Q] mixture of the momentum softmax and the diagonal."""
        hard = torch.zeros_like(similarity).fill_diagonal_(1)
        return alpha * F.softmax(similarity, 1) + (1 - alpha) * hard

    def matching(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        states: torch.Tensor,
        i2t: torch.Tensor,
        t2i: torch.Tensor,
    ) -> torch.Tensor:
        """Cross-entropy of B matching pairs and of 2 B with a hard negative."""
        count = len(ids)
        ids = ids.clone()
        ids[:, 0] = self.config.enc_token_id
        positive = self.text_encoder(ids, mask, states)[:, 0]
        with torch.no_grad():
            weights_t2i = F.softmax(t2i[:, :count].float(), 1) + 1e-4
            weights_t2i.fill_diagonal_(0)
            weights_i2t = F.softmax(i2t[:, :count].float(), 1) + 1e-4
            weights_i2t.fill_diagonal_(0)
        pick = self.pick_at_once if self.vectorised else self.pick_in_a_loop
        wrong_states, wrong_ids, wrong_mask = pick(weights_t2i, weights_i2t, states, ids, mask)
        negative = self.text_encoder(
            torch.cat([ids, wrong_ids]),
            torch.cat([mask, wrong_mask]),
            torch.cat([wrong_states, states]),
        )[:, 0]
        logits = self.itm_head(torch.cat([positive, negative]))
        labels = torch.cat(
            [
                torch.ones(count, dtype=torch.long, device=ids.device),
                torch.zeros(2 * count, dtype=torch.long, device=ids.device),
            ]
        )
        return F.cross_entropy(logits, labels)

    def pick_in_a_loop(
        self,
        weights_t2i: torch.Tensor,
        weights_i2t: torch.Tensor,
        states: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Wrong pictures of the texts, wrong texts of the pictures: one draw, one slice a row."""
        images, texts, masks, numbers = [], [], [], ([], [])
        for row in range(len(ids)):
            number = self.draw(weights_t2i[row]).item()
            images.append(states[number])
            numbers[0].append(number)
        for row in range(len(ids)):
            number = self.draw(weights_i2t[row]).item()
            texts.append(ids[number])
            masks.append(mask[number])
            numbers[1].append(number)
        self.drawn = (torch.tensor(numbers[0]), torch.tensor(numbers[1]))
        return torch.stack(images), torch.stack(texts), torch.stack(masks)

    def pick_at_once(
        self,
        weights_t2i: torch.Tensor,
        weights_i2t: torch.Tensor,
        states: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same without a loop."""
        images, texts = self.draw(weights_t2i).flatten(), self.draw(weights_i2t).flatten()
        self.drawn = (images, texts)
        return states.index_select(0, images), ids[texts], mask[texts]

    def draw(self, weights: torch.Tensor) -> torch.Tensor:
        """One index a row of weights."""
        if self.greedy:
            return weights.argmax(-1, keepdim=True)
        return torch.multinomial(weights, 1)

    def captioning(
        self, ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor
    ) -> torch.Tensor:
        """Next-token loss over all positions, label smoothing 0.1, padding ignored."""
        ids = ids.clone()
        ids[:, 0] = self.config.bos_token_id
        labels = ids.masked_fill(ids == self.config.pad_token_id, -100)[:, 1:].contiguous()
        logits = self.text_decoder(ids, mask, states)[:, :-1, :].contiguous()
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)

    @torch.no_grad()
    def update_momentum(self) -> None:
        """m <- 0.995 m + 0.005 p, tensor by tensor, out of place."""
        for part in PARTS:
            online = list(getattr(self, part).parameters())
            copies = list(getattr(self, f"{part}_m").parameters())
            if self.vectorised:
                torch._foreach_mul_(copies, self.momentum)
                torch._foreach_add_(copies, online, alpha=1 - self.momentum)
                continue
            for weight, weight_m in zip(online, copies, strict=True):
                weight_m.data = weight_m.data * self.momentum + weight.data * (1 - self.momentum)

    @torch.no_grad()
    def enqueue(self, image_feature: torch.Tensor, text_feature: torch.Tensor) -> None:
        """Write the batch over the oldest entries; the queue must be a multiple of the batch."""
        count, place = len(image_feature), int(self.queue_ptr)
        assert self.queue_size % count == 0, "the original needs a queue of whole batches"
        self.image_queue[:, place : place + count] = image_feature.T
        self.text_queue[:, place : place + count] = text_feature.T
        self.queue_ptr[0] = (place + count) % self.queue_size
