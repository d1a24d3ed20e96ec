"""Captioning without padding: attention alone sees rows, scored places alone the vocabulary."""

import torch

from blip_model.blip import Blip, with_first_token
from blip_model.packed_text import SharedEmbeddings, looking_states
from blip_model.packing import Packing
from kernels import lm_loss


def packed_captioning(
    model: Blip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    *,
    prompt_length: int,
    label_smoothing: float,
    group_size: int,
    capacity: int | None = None,
) -> torch.Tensor:
    """The loss of `objectives.lm.language_modelling` on `Blip.decode`, with less work.

    Args:
        model: with decoder.
        ids: [B, L], prompt and caption.
        mask: [B, L].
        image_states: [B, P, vision width].
        prompt_length: leading tokens that are not scored.
        label_smoothing: share of the target spread over the vocabulary.
        group_size: rows whose tokens are averaged together.
        capacity: of tokens, as in `Packing.of`.
    """
    decoder, packing = model.text_decoder, Packing.of(mask, capacity)
    ids = with_first_token(ids, model.config.bos_token_id)
    states = SharedEmbeddings.of(decoder.bert, ids, packing).own()
    states = looking_states(decoder.bert, states, packing, image_states, causal=True)
    return caption_loss(
        model,
        states,
        ids,
        packing,
        label_smoothing=label_smoothing,
        group_size=group_size,
        prompt_length=prompt_length,
    )


def caption_loss(
    model: Blip,
    states: torch.Tensor,
    ids: torch.Tensor,
    packing: Packing,
    *,
    label_smoothing: float,
    group_size: int,
    prompt_length: int = 0,
) -> torch.Tensor:
    """Next-token loss of packed decoder states; each row's last token predicts nothing.

    A mask's tokens stand at the beginning of its row and no row is shorter than the prompt, so a
    row of n tokens predicts n - max(prompt_length, 1), and so many places are scored.

    Args:
        model: with decoder.
        states: [T, D] of the decoder.
        ids: [B, L].
        packing: of the texts.
        label_smoothing: share of the target spread over the vocabulary.
        group_size: rows whose tokens are averaged together.
        prompt_length: leading tokens that are not scored.
    """
    passed, bounded = max(prompt_length, 1), packing.spots is not None
    following = packing.mask[:, passed:]
    scored = Packing.of(following, len(packing) - passed * len(ids) if bounded else None)
    places = packing.first[scored.rows] + scored.columns + passed - 1
    targets = scored.pack(ids[:, passed:])
    of_group = following.sum(1).view(-1, group_size).sum(1)
    weights = (1.0 / (of_group.clamp(min=1) * len(of_group)))[scored.rows // group_size]
    if bounded:
        weights = weights.masked_fill(scored.spare, 0.0)
    head = model.text_decoder.cls.predictions
    return lm_loss(
        head.transform(states.index_select(0, places)),
        head.decoder.weight,
        head.decoder.bias,
        targets,
        weights,
        label_smoothing=label_smoothing,
    )
