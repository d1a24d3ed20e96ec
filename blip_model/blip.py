"""BLIP: the image encoder, the MED and the heads, under the original's state-dict names."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from blip_model.config import BlipConfig, Recomputed
from blip_model.layers import AddLayerNorm, Linear, MlpOutput
from blip_model.med import TextDecoder, TextTransformer, initialise_text
from blip_model.packed_layers import packed_parts
from blip_model.vit import VisionTransformer

TEMPERATURE_RANGE = (0.001, 0.5)


class Blip(nn.Module):
    """The network with the heads that its parts allow.

    Args:
        config: sizes.
        text_encoder: with the text encoder.
        text_decoder: with the decoder; beside an encoder it shares its weights.
        heads: beside the text encoder both projections, matching head and temperature.
    """

    def __init__(
        self,
        config: BlipConfig,
        *,
        text_encoder: bool = True,
        text_decoder: bool = True,
        heads: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        fresh = partial(initialise_text, std=config.initial_std)
        self.visual_encoder = VisionTransformer(config)
        self.text_encoder = TextTransformer(config) if text_encoder else None
        self.temp = None
        if text_encoder and heads:
            self.vision_proj = Linear(config.vision_width, config.embed_dim)
            self.text_proj = Linear(config.text_width, config.embed_dim)
            self.temp = nn.Parameter(torch.tensor(0.07))
            self.itm_head = Linear(config.text_width, 2)
        if text_encoder:
            self.text_encoder.apply(fresh)
        self.text_decoder = None
        if text_decoder:
            self.text_decoder = TextDecoder(config, self.text_encoder)
            self.text_decoder.apply(fresh)

    def recompute(self, what: Recomputed) -> None:
        """Choose what the backward pass makes again instead of keeping it.

        Args:
            what: nothing (`none`); what is elementwise work (`norms`): norms that products read
                and what MLPs' GELUs give; also `vision` or `all` layers, which then keep their
                input alone.
        """
        for part in self.modules():
            if isinstance(part, AddLayerNorm | MlpOutput):
                part.keeps = what == "none"
        text = what == "all"
        self.visual_encoder.recompute = text or what == "vision"
        if self.text_encoder is not None:
            self.text_encoder.recompute = text
        if self.text_decoder is not None:
            self.text_decoder.bert.recompute = text

    @property
    def temperature(self) -> torch.Tensor:
        """The learned temperature, 0-dim."""
        return self.temp.reshape(())

    def load_state_dict(self, state_dict: Mapping[str, Any], *rest: Any, **more: Any) -> Any:
        """PyTorch's, which would have loaded all that is plain before a packed weight refuses.

        Raises:
            RuntimeError: weights are packed.
        """
        if packed_parts(self):
            raise RuntimeError("weights are packed: load weights before they are")
        return super().load_state_dict(state_dict, *rest, **more)

    def _apply(self, change: Callable, recurse: bool = True) -> nn.Module:
        # Likewise: moved whole or not at all.
        for part in packed_parts(self):
            part.refuse_other(change)
        return super()._apply(change, recurse)

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> states of all image tokens [B, P, vision width].

        Of F frames of videos, [B, F, 3, H, W] -> [B, F P, vision width].
        """
        return self.visual_encoder(image)

    def image_feature(self, image_states: torch.Tensor, frames: int = 1) -> torch.Tensor:
        """[B, P, vision width] -> unit vectors [B, E], float32.

        Of videos of F frames, [B, F P, vision width], the frames' projections are averaged before:
        the map is affine, so their states may be.
        """
        first = image_states[:, 0]
        if frames > 1:
            first = image_states.unflatten(1, (frames, -1))[:, :, 0].mean(1)
        return unit(self.vision_proj(first))

    def encode_text(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, L] ids, [CLS] first, and mask -> states [B, L, D] without a picture."""
        return self.text_encoder(ids, mask)

    def text_feature(self, text_states: torch.Tensor) -> torch.Tensor:
        """[B, L, D] -> unit vectors [B, E], float32."""
        return unit(self.text_proj(text_states[:, 0]))

    def match(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        image_states: torch.Tensor,
        *,
        write_enc: bool = True,
    ) -> torch.Tensor:
        """Does the text describe the picture?

        Args:
            ids: [B, L], [CLS] first.
            mask: [B, L].
            image_states: [B, P, vision width].
            write_enc: put [ENC] in the first place, as training does; the original's demo scorer
                leaves [CLS] there.

        Returns:
            [B, 2] float32 logits: unmatched, matched.
        """
        if write_enc:
            ids = with_first_token(ids, self.config.enc_token_id)
        return self.itm_head(self.text_encoder(ids, mask, image_states)[:, 0]).float()

    def decode(
        self, ids: torch.Tensor, mask: torch.Tensor | None, image_states: torch.Tensor
    ) -> torch.Tensor:
        """[B, L] ids, whose first is replaced by [DEC], -> next-token logits [B, L, V]."""
        ids = with_first_token(ids, self.config.bos_token_id)
        return self.text_decoder(ids, mask, image_states)

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Keep the temperature in [0.001, 0.5]; called after a step, before the next forward.

        A network without heads has none.
        """
        if self.temp is not None:
            self.temp.clamp_(*TEMPERATURE_RANGE)


def unit(x: torch.Tensor) -> torch.Tensor:
    """L2-normalise the last dimension in float32."""
    return F.normalize(x.float(), dim=-1)


def with_first_token(ids: torch.Tensor, token: int) -> torch.Tensor:
    """A copy of [B, L] ids whose first column is `token`."""
    return torch.cat([torch.full_like(ids[:, :1], token), ids[:, 1:]], 1)
