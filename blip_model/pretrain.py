"""BLIP's pretraining objective: contrast, matching and captioning on one batch."""

from functools import partial

import torch

from blip_model.blip import Blip
from blip_model.config import BlipConfig
from blip_model.fused_passes import matching_and_captioning, read_texts
from blip_model.layers import for_products
from blip_model.momentum import MomentumFeatures
from blip_model.objectives.itc import contrast
from blip_model.objectives.itm import matching
from blip_model.objectives.lm import language_modelling, next_token_targets
from kernels import draw_hard_negatives


class BlipPretrain(Blip):
    """A batch to its three losses.

    A batch holds whole groups; a group is what one GPU held in the original. In-batch keys,
    negatives and the token mean of captioning stay inside a group, and every loss is the mean
    over groups, so it does not depend on how groups spread over ranks and micro-batches.

    Args:
        config: sizes.
        label_smoothing: of captioning.
        plain: compute the step by its definition (six padded text passes, `_plain`) instead of
            the equal one that does less work.
    """

    def __init__(
        self, config: BlipConfig, *, label_smoothing: float = 0.1, plain: bool = False
    ) -> None:
        super().__init__(config)
        self.label_smoothing, self.plain = label_smoothing, plain

    def forward(
        self,
        image: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        momentum: MomentumFeatures,
        *,
        alpha: float | torch.Tensor,
        group_size: int | None = None,
        negatives: tuple[torch.Tensor, torch.Tensor] | None = None,
        seed: int = 0,
        group_keys: torch.Tensor | None = None,
        capacity: int | None = None,
        drawn_capacity: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses of one micro-batch.

        Args:
            image: [B, 3, H, W].
            input_ids: [B, L], [CLS] first.
            attention_mask: [B, L].
            momentum: of the same batch.
            alpha: weight of the soft targets.
            group_size: None takes the batch as one group.
            negatives: (wrong picture of each text, wrong text of each picture), each [B];
                None draws them.
            seed: of the draw.
            group_keys: [groups] int64 names of the groups, for the draw.
            capacity: places for the tokens of all texts, at least as many as there are; None
                makes as many as there are. With one, shapes do not depend on the texts and the
                host never waits for the device.
            drawn_capacity: places for those of the wrong texts, at least `capacity`; None has room
                for any that may be drawn. Where they are too few, loss_itm is NaN.

        Returns:
            loss_itc, loss_itm and loss_lm, 0-dim float32.
        """
        image_states = self.encode_image(image)
        image_feature = self.image_feature(image_states)
        text_feature, embedded = read_texts(
            self, input_ids, attention_mask, capacity, plain=self.plain
        )
        loss_itc = contrast(
            image_feature, text_feature, momentum, self.temperature, alpha, group_size=group_size
        )
        if negatives is None:
            negatives = self.draw(
                image_feature,
                text_feature,
                momentum,
                seed=seed,
                group_size=group_size,
                group_keys=group_keys,
            )
        group = group_size or len(image)
        if embedded is None:
            loss_itm, loss_lm = self._plain(
                input_ids, attention_mask, image_states, negatives, group
            )
        else:
            # Here already: the wider states would lie beside all that the layers keep.
            image_states = for_products(image_states)
            loss_itm, loss_lm = matching_and_captioning(
                self,
                embedded,
                input_ids,
                image_states,
                *negatives,
                label_smoothing=self.label_smoothing,
                group_size=group,
                drawn_capacity=drawn_capacity,
            )
        return {"loss_itc": loss_itc, "loss_itm": loss_itm, "loss_lm": loss_lm}

    def _plain(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        image_states: torch.Tensor,
        negatives: tuple[torch.Tensor, torch.Tensor],
        group_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Matching and captioning by their definitions, padded, each in a pass of its own."""
        loss_itm = matching(self, ids, mask, image_states, *negatives)
        logits = self.decode(ids, mask, image_states)[:, :-1]
        targets = next_token_targets(ids, mask)
        return loss_itm, language_modelling(logits, targets, self.label_smoothing, group_size)

    def draw(
        self,
        image_feature: torch.Tensor,
        text_feature: torch.Tensor,
        momentum: MomentumFeatures,
        *,
        seed: int = 0,
        group_size: int | None = None,
        group_keys: torch.Tensor | None = None,
        greedy: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Wrong picture of each text and wrong text of each picture, [B] each.

        Weights come from online features against momentum keys, as in the original. The two
        directions draw from different streams of the same seed.
        """
        draw = partial(
            draw_hard_negatives,
            temperature=self.temperature,
            group_size=group_size,
            group_keys=group_keys,
            greedy=greedy,
        )
        return (
            draw(text_feature, momentum.image_feature, seed=2 * seed),
            draw(image_feature, momentum.text_feature, seed=2 * seed + 1),
        )
