"""Captions of encoded pictures, by beam search or sampled from the nucleus."""

import torch

from blip_model.beams import Beams
from blip_model.blip import Blip
from blip_model.nucleus import Nucleus
from blip_model.slots import caption_groups
from blip_model.waiting import Encoded


def captions(
    model: Blip,
    image_states: torch.Tensor,
    prompt_ids: torch.Tensor,
    how: Nucleus | Beams,
    uniforms: torch.Tensor | None = None,
    *,
    record: bool = True,
) -> torch.Tensor:
    """Captions of pictures that are all there: [B, captions a picture, max_length].

    See `Encoded` and `caption_groups`.
    """
    group = Encoded(image_states, prompt_ids, uniforms)
    (made,) = caption_groups(model, [group], how, len(group), record=record)
    return made


def beam_search(
    model: Blip, image_states: torch.Tensor, prompt_ids: torch.Tensor, **settings: float
) -> torch.Tensor:
    """The best caption of each picture: [B, max_length] ids, prompt included, padded after [SEP].

    Args:
        model: with a decoder, in eval mode.
        image_states: [B, P, vision width].
        prompt_ids: [B, L], [DEC] first, no [SEP].
        settings: of `Beams`.
    """
    return captions(model, image_states, prompt_ids, Beams(**settings))[:, 0]


def nucleus(
    model: Blip,
    image_states: torch.Tensor,
    prompt_ids: torch.Tensor,
    *,
    uniforms: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    **settings: float,
) -> torch.Tensor:
    """Sampled captions: [B, samples, max_length] ids, prompt included, padded after [SEP].

    Args:
        model: with a decoder, in eval mode.
        image_states: [B, P, vision width].
        prompt_ids: [B, L], [DEC] first, no [SEP].
        uniforms: see `Encoded`; a caption depends on its own numbers alone.
        generator: draws them where they are not given.
        settings: of `Nucleus`.
    """
    how = Nucleus(**settings)
    if uniforms is None:
        shape, kind = (len(prompt_ids), how.samples, how.max_length), torch.float64
        uniforms = torch.rand(shape, generator=generator, dtype=kind, device=prompt_ids.device)
        uniforms = uniforms.clamp(max=1 - 2.0**-32)
    return captions(model, image_states, prompt_ids, how, uniforms)
