"""Visual dialogue (Das et al. 2017, arXiv:1611.08669): which answer is right after what was said?

Of the paper (Li et al. 2022, arXiv:2201.12086, section 5.5), whose code was never released: a
dialog encoder is trained with the matching loss to tell right answers from wrong ones, given the
picture, its caption and the earlier rounds; candidates are ranked by its score.

Ours: the text is the dialogue as it would be with the answer, which are its last words, and the
MED's image-grounded encoder and matching head read it as they are, so that any pretraining starts
it. The paper lays the caption's states beside the picture's for cross-attention to look at; here
the caption is what the text begins with, for which the towers may differ in width.
"""

import torch
import torch.nn.functional as F

from blip_model.blip import Blip
from blip_model.config import BlipConfig
from blip_model.pair_scores import equal_matching_logits


class BlipVisdial(Blip):
    """BLIP without decoder and temperature; the projections stay as they were.

    Args:
        config: sizes.
        plain: compute by the definition, padded, as `BlipPretrain` does.
    """

    def __init__(self, config: BlipConfig, *, plain: bool = False) -> None:
        super().__init__(config, text_decoder=False)
        # Nothing is compared by features, so nothing scales them.
        self.temp = None
        self.plain = plain

    def forward(
        self,
        image: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        label: torch.Tensor,
        capacity: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """loss_visdial of a micro-batch: cross-entropy, mean over dialogues.

        Args:
            image: [B, 3, H, W].
            input_ids: [B * A, L], A dialogues of the first picture, then of the second, and so on;
                [CLS] first.
            attention_mask: [B * A, L].
            label: [B * A] int64, 1 where a dialogue ends with the right answer.
            capacity: of the dialogues' tokens, as in `BlipPretrain.forward`.
        """
        states, texts = self.encode_image(image), (input_ids, attention_mask)
        if self.plain:
            each = len(input_ids) // len(image)
            logits = self.match(*texts, states.repeat_interleave(each, 0))
        else:
            logits = equal_matching_logits(self, *texts, states, capacity)
        return {"loss_visdial": F.cross_entropy(logits, label)}
