"""NLVR2: is a sentence about two pictures true? (Suhr et al. 2019, arXiv:1811.00491)

Every layer of the text transformer has a cross-attention for each of the two pictures. What they
give is averaged in the first six layers and merged by a linear map in the others (Li et al. 2022,
arXiv:2201.12086, section 5.4).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from blip_model.blip import Blip, with_first_token
from blip_model.config import BlipConfig
from blip_model.layers import AddLayerNorm, Linear
from blip_model.lm_head import NORM_EPS
from blip_model.med import (
    Embeddings,
    FeedForward,
    Intermediate,
    MedAttention,
    Projections,
    initialise_text,
)
from blip_model.recompute import run_layer
from kernels import attention

MERGED_FROM = 6


class TwoAddNorm(nn.Module):
    """Two linear maps, their average or a linear map of both, dropout, residual, norm."""

    def __init__(self, config: BlipConfig, merged: bool) -> None:
        super().__init__()
        width = config.text_width
        self.dense0 = Linear(width, width)
        self.dense1 = Linear(width, width)
        self.merge_layer = Linear(2 * width, width) if merged else None
        self.LayerNorm = AddLayerNorm(width, NORM_EPS)
        self.dropout = config.dropout

    def forward(
        self, first_BLD: torch.Tensor, second_BLD: torch.Tensor, residual_BLD: torch.Tensor
    ) -> torch.Tensor:
        first_BLD, second_BLD = self.dense0(first_BLD), self.dense1(second_BLD)
        if self.merge_layer is None:
            branch_BLD = (first_BLD + second_BLD) / 2
        else:
            branch_BLD = self.merge_layer(torch.cat([first_BLD, second_BLD], 2))
        return self.LayerNorm(residual_BLD, branch_BLD, self.dropout)[1]


class TwoCrossAttention(nn.Module):
    """Attention of tokens over each of two pictures, with weights of its own for each."""

    def __init__(self, config: BlipConfig, merged: bool) -> None:
        super().__init__()
        self.self0 = Projections(config, config.vision_width)
        self.self1 = Projections(config, config.vision_width)
        self.output = TwoAddNorm(config, merged)
        self.dropout = config.dropout

    def forward(
        self, states_BLD: torch.Tensor, first_BPD: torch.Tensor, second_BPD: torch.Tensor
    ) -> torch.Tensor:
        first = self._context(self.self0, states_BLD, first_BPD)
        second = self._context(self.self1, states_BLD, second_BPD)
        return self.output(first, second, states_BLD)

    def _context(
        self, projections: Projections, states_BLD: torch.Tensor, image_states_BPD: torch.Tensor
    ) -> torch.Tensor:
        keys, values = projections.keys_values(image_states_BPD)
        dropout = self.dropout if self.training else 0.0
        context = attention(projections.queries(states_BLD), keys, values, dropout=dropout)
        return context.transpose(1, 2).flatten(2)


class NlvrLayer(nn.Module):
    """Self-attention, a cross-attention for each picture, feed-forward."""

    def __init__(self, config: BlipConfig, merged: bool) -> None:
        super().__init__()
        self.attention = MedAttention(config, config.text_width)
        self.crossattention = TwoCrossAttention(config, merged)
        self.intermediate = Intermediate(config)
        self.output = FeedForward(config)

    def forward(
        self,
        states_BLD: torch.Tensor,
        key_mask: torch.Tensor,
        first_BPD: torch.Tensor,
        second_BPD: torch.Tensor,
    ) -> torch.Tensor:
        states_BLD = self.attention(states_BLD, states_BLD, key_mask)
        states_BLD = self.crossattention(states_BLD, first_BPD, second_BPD)
        return self.output(states_BLD, self.intermediate)


class NlvrStack(nn.Module):
    """The layers under the name that checkpoints know."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        merged = (number >= MERGED_FROM for number in range(config.text_layers))
        self.layer = nn.ModuleList([NlvrLayer(config, each) for each in merged])


class NlvrTransformer(nn.Module):
    """Token ids and two pictures' states to token states.

    Attributes:
        recompute: layers run again in the backward pass, see `recompute`.
    """

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = NlvrStack(config)
        self.recompute = False

    def forward(
        self,
        ids_BL: torch.Tensor,
        mask_BL: torch.Tensor,
        first_BPD: torch.Tensor,
        second_BPD: torch.Tensor,
    ) -> torch.Tensor:
        """[B, L] ids and mask, [B, P, vision width] of either picture -> [B, L, D]."""
        key_mask, states = mask_BL.bool(), self.embeddings(ids_BL)
        for layer in self.encoder.layer:
            inputs = (states, key_mask, first_BPD, second_BPD)
            states = run_layer(layer, *inputs, recompute=self.recompute)
        return states


class BlipNlvr(Blip):
    """The image encoder, a text encoder that looks at two pictures, and a head: false or true."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config, text_encoder=False, text_decoder=False)
        width = config.text_width
        self.text_encoder = NlvrTransformer(config)
        self.text_encoder.apply(partial(initialise_text, std=config.initial_std))
        # PyTorch's own start, as in the original.
        self.cls_head = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, 2))

    def judge(self, images: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Is what the sentence says of the two pictures true?

        Args:
            images: [B, 2, 3, H, W], the left and the right picture of each sentence.
            ids: [B, L], whose first is replaced by [ENC].
            mask: [B, L].

        Returns:
            [B, 2] float32 logits: false, true.
        """
        states = self.encode_image(images.flatten(0, 1))
        first, second = states.unflatten(0, (-1, 2)).unbind(1)
        ids = with_first_token(ids, self.config.enc_token_id)
        return self.cls_head(self.text_encoder(ids, mask, first, second)[:, 0]).float()

    def forward(
        self,
        image: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        label: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """loss_nlvr of a micro-batch: cross-entropy, mean over sentences.

        Args:
            image: [B, 2, 3, H, W].
            input_ids: [B, L].
            attention_mask: [B, L].
            label: [B] int64, 1 where the sentence is true.
        """
        logits = self.judge(image, input_ids, attention_mask)
        return {"loss_nlvr": F.cross_entropy(logits, label)}
