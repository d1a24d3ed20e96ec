"""Caption fine-tuning."""

import torch

from blip_model.blip import Blip, with_first_token
from blip_model.config import BlipConfig
from blip_model.objectives.lm import language_modelling, next_token_targets
from blip_model.packed_caption import packed_captioning


class BlipCaption(Blip):
    """BLIP without the encoder: a picture and a prompt to a caption.

    Args:
        config: sizes.
        label_smoothing: of the loss.
        plain: compute the step by its definition, padded, as `BlipPretrain` does.
    """

    def __init__(
        self, config: BlipConfig, *, label_smoothing: float = 0.1, plain: bool = False
    ) -> None:
        super().__init__(config, text_encoder=False)
        self.label_smoothing, self.plain = label_smoothing, plain

    def forward(
        self,
        image: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        prompt_length: int = 0,
        group_size: int | None = None,
        capacity: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """loss_lm of a micro-batch.

        Args:
            image: [B, 3, H, W].
            input_ids: [B, L], prompt and caption, first token replaced by [DEC].
            attention_mask: [B, L].
            prompt_length: leading tokens that are not scored.
            group_size: rows whose tokens are averaged together.
            capacity: of tokens, as in `BlipPretrain.forward`.
        """
        image_states = self.encode_image(image)
        if not self.plain:
            loss = packed_captioning(
                self,
                input_ids,
                attention_mask,
                image_states,
                prompt_length=prompt_length,
                label_smoothing=self.label_smoothing,
                group_size=group_size or len(image),
                capacity=capacity,
            )
            return {"loss_lm": loss}
        logits = self.decode(input_ids, attention_mask, image_states)[:, :-1]
        ids = with_first_token(input_ids, self.config.bos_token_id)
        targets = next_token_targets(ids, attention_mask, prompt_length)
        loss = language_modelling(logits, targets, self.label_smoothing, group_size)
        return {"loss_lm": loss}
