"""Image-text matching with one hard negative each way."""

import torch
import torch.nn.functional as F

from blip_model.blip import Blip


def matching(
    model: Blip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    image_of_text: torch.Tensor,
    text_of_image: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy over B matching pairs, B with a wrong picture and B with a wrong text.

    Args:
        model: with matching head.
        ids: [B, L].
        mask: [B, L].
        image_states: [B, P, vision width].
        image_of_text: [B] the picture that is wrong for each text.
        text_of_image: [B] the text that is wrong for each picture.
    """
    count = len(ids)
    rows = torch.arange(count, device=ids.device)
    texts = torch.cat([rows, rows, text_of_image])
    pictures = torch.cat([rows, image_of_text, rows])
    logits = model.match(ids[texts], mask[texts], image_states.index_select(0, pictures))
    labels = (torch.arange(3 * count, device=ids.device) < count).long()
    return F.cross_entropy(logits, labels)
