"""Contrast alone, as CLIP and ALIGN train: no matching, no captioning, no momentum."""

import torch
import torch.nn.functional as F

from blip_model.blip import Blip
from blip_model.config import BlipConfig


class BlipContrast(Blip):
    """BLIP's two encoders; cross-attention and the matching head stay as they were drawn.

    Args:
        config: sizes.
    """

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config, text_decoder=False)

    def forward(
        self,
        image: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        group_size: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """loss_itc of a micro-batch: cross-entropy both ways over the pairs of a group.

        Radford et al. 2021 (arXiv:2103.00020), figure 3; Jia et al. 2021 (arXiv:2102.05918),
        equations 1 and 2.

        Args:
            image: [B, 3, H, W].
            input_ids: [B, L], [CLS] first.
            attention_mask: [B, L].
            group_size: pairs that see each other; None takes the batch as one group.
        """
        image_feature = self.image_feature(self.encode_image(image))
        text_feature = self.text_feature(self.encode_text(input_ids, attention_mask))
        size = group_size or len(image)
        pictures, words = (f.unflatten(0, (-1, size)) for f in (image_feature, text_feature))
        logits = pictures @ words.transpose(1, 2) / self.temperature
        own = torch.arange(size, device=logits.device).expand(len(logits), size)
        ways = (logits, logits.transpose(1, 2))
        return {"loss_itc": sum(F.cross_entropy(way, own) for way in ways) / 2}
