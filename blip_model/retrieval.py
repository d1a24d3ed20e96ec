"""Retrieval fine-tuning: contrast and matching, several texts to a picture. Also the filter."""

from functools import partial

import torch

from blip_model.blip import Blip
from blip_model.config import BlipConfig
from blip_model.fused_passes import matching_alone, read_texts
from blip_model.momentum import MomentumFeatures
from blip_model.objectives.itc import contrast
from blip_model.objectives.itm import matching
from kernels import draw_hard_negatives


class BlipRetrieval(Blip):
    """BLIP without the decoder.

    Args:
        config: sizes.
        plain: compute the step by its definition, as `BlipPretrain` does.
    """

    def __init__(self, config: BlipConfig, *, plain: bool = False) -> None:
        super().__init__(config, text_decoder=False)
        self.plain = plain

    def forward(
        self,
        image: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        momentum: MomentumFeatures,
        *,
        image_id: torch.Tensor,
        alpha: float | torch.Tensor,
        group_size: int | None = None,
        negatives: tuple[torch.Tensor, torch.Tensor] | None = None,
        seed: int = 0,
        group_keys: torch.Tensor | None = None,
        capacity: int | None = None,
        drawn_capacity: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """loss_itc and loss_itm of a micro-batch; arguments as in `BlipPretrain.forward`.

        Args:
            image_id: [B]; texts of the same picture are positives and never negatives.
        """
        image_states = self.encode_image(image)
        frames = image.shape[1] if image.ndim == 5 else 1
        image_feature = self.image_feature(image_states, frames)
        text_feature, embedded = read_texts(
            self, input_ids, attention_mask, capacity, plain=self.plain
        )
        loss_itc = contrast(
            image_feature,
            text_feature,
            momentum,
            self.temperature,
            alpha,
            image_id=image_id,
            group_size=group_size,
        )
        if negatives is None:
            negatives = self.draw(
                image_feature,
                text_feature,
                image_id,
                seed=seed,
                group_size=group_size,
                group_keys=group_keys,
            )
        if embedded is None:
            loss_itm = matching(self, input_ids, attention_mask, image_states, *negatives)
        else:
            loss_itm = matching_alone(self, embedded, image_states, *negatives, drawn_capacity)
        return {"loss_itc": loss_itc, "loss_itm": loss_itm}

    def draw(
        self,
        image_feature: torch.Tensor,
        text_feature: torch.Tensor,
        image_id: torch.Tensor,
        *,
        seed: int = 0,
        group_size: int | None = None,
        group_keys: torch.Tensor | None = None,
        greedy: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `BlipPretrain.draw`, but from online against online features and without a floor."""
        draw = partial(
            draw_hard_negatives,
            temperature=self.temperature,
            group_size=group_size,
            group_keys=group_keys,
            greedy=greedy,
            ids=image_id,
            floor=0.0,
        )
        return (
            draw(text_feature, image_feature, seed=2 * seed),
            draw(image_feature, text_feature, seed=2 * seed + 1),
        )
