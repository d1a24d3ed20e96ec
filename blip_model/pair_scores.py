"""Scores of pictures with many texts each: a picture is projected once, texts are not padded.

The way of the filter, and of dialogues' answers, to the numbers that `Blip.match` and the two
features define.
"""

import torch

from blip_model.blip import Blip, unit, with_first_token
from blip_model.med import MedLayer
from blip_model.packed_text import SharedEmbeddings, cross_attend, first_states, self_attend
from blip_model.packing import Packing
from blip_model.recompute import run_layer
from kernels.transfer import sent


def matching_logits(
    model: Blip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    texts_of_image: torch.Tensor,
) -> torch.Tensor:
    """`Blip.match` of texts with their pictures, with less work.

    The texts of a picture ask its keys and values as one longer block of queries; in the last
    layer only [ENC] is computed.

    Args:
        model: with text encoder and matching head, in eval mode.
        ids: [R, L], [CLS] first; texts of the first picture, then of the second, and so on.
        mask: [R, L]; on the host, as `texts_of_image` then, nobody waits for a GPU to count.
        image_states: [B, P, vision width].
        texts_of_image: [B] int64, how many of the R texts are each picture's; may be 0.

    Returns:
        [R, 2] float32 logits: unmatched, matched.
    """
    owner = _owner(texts_of_image)
    tokens = texts_of_image.new_zeros(len(texts_of_image)).index_add(0, owner, mask.long().sum(1))
    packings = (Packing.of(mask), _blocks(tokens), _blocks(texts_of_image))
    packing, *asking = (one.to(image_states.device) for one in packings)
    return _logits(model, sent(ids, image_states.device), packing, image_states, *asking)


def equal_matching_logits(
    model: Blip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    capacity: int | None = None,
) -> torch.Tensor:
    """`matching_logits` where every picture has as many texts, for training too.

    Args:
        model: with text encoder and matching head.
        ids: [B * A, L], [CLS] first.
        mask: [B * A, L].
        image_states: [B, P, vision width].
        capacity: of tokens, as in `Packing.of`.

    Returns:
        [B * A, 2] float32 logits.
    """
    count, (rows, length) = len(image_states), mask.shape
    each = rows // count
    tokens = mask.long().sum(1).view(count, each).sum(1)
    places = torch.arange(each * length, device=mask.device)
    asking = Packing.of(places < tokens[:, None], capacity)
    all_rows = torch.ones(count, each, dtype=torch.bool, device=mask.device)
    asking_last = Packing.of(all_rows, None if capacity is None else rows)
    return _logits(model, ids, Packing.of(mask, capacity), image_states, asking, asking_last)


def _logits(
    model: Blip,
    ids: torch.Tensor,
    packing: Packing,
    image_states: torch.Tensor,
    asking: Packing,
    asking_last: Packing,
) -> torch.Tensor:
    """[R, 2] of texts whose tokens, and whose first tokens, ask their pictures in these blocks."""
    text = model.text_encoder
    ids = with_first_token(ids, model.config.enc_token_id)
    states = SharedEmbeddings.of(text, ids, packing).own()

    def run(
        layer: MedLayer, states: torch.Tensor, image_states: torch.Tensor, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states = self_attend(layer.attention, states, packing, first_only=last)
        seen = asking_last if last else asking
        states, image_states = cross_attend(layer.crossattention, states, image_states, seen)
        return layer.feed_forward(states), image_states

    for number, layer in enumerate(text.encoder.layer, 1):
        last = number == len(text.encoder.layer)
        inputs = (layer, states, image_states, last)
        states, image_states = run_layer(run, *inputs, recompute=text.recompute)
    return model.itm_head(states).float()


def similarities(
    model: Blip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    texts_of_image: torch.Tensor,
) -> torch.Tensor:
    """Cosine [R] float32 of each text's feature with its picture's; arguments as above."""
    device = image_states.device
    packing, owner = Packing.of(mask).to(device), sent(_owner(texts_of_image), device)
    embedded = SharedEmbeddings.of(model.text_encoder, sent(ids, device), packing)
    text = unit(model.text_proj(first_states(embedded)))
    image = model.image_feature(image_states).index_select(0, owner)
    return (text * image).sum(1)


def _owner(texts_of_image: torch.Tensor) -> torch.Tensor:
    """[R] picture of each text."""
    pictures = torch.arange(len(texts_of_image), device=texts_of_image.device)
    return pictures.repeat_interleave(texts_of_image)


def _blocks(counts: torch.Tensor) -> Packing:
    """The first counts[0] packed tokens as a row, the next counts[1] as another, and so on."""
    places = torch.arange(int(counts.max()), device=counts.device)
    return Packing.of(places < counts[:, None])
