"""MED, the multimodal mixture of encoder and decoder: one text transformer with three modes.

`text` skips cross-attention; `multimodal` attends to a picture; the decoder is causal and attends
to a picture. Encoder and decoder share everything but self-attention (its output norm included)
and the LM head's transform (Li et al. 2022, arXiv:2201.12086, section 3.1).
"""

from collections.abc import Sequence

import torch
from torch import nn

from blip_model.config import BlipConfig
from blip_model.layers import (
    AddLayerNorm,
    Dropout,
    Linear,
    MlpOutput,
    norms_of_kinds,
    of_few_rows,
)
from blip_model.lm_head import NORM_EPS, LmHead
from blip_model.packed_layers import by_head
from blip_model.recompute import run_layer
from kernels import attention, attention_absorbed


class Embeddings(nn.Module):
    """Word plus position embeddings, normalised: [B, L] ids -> [B, L, D]."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        width = config.text_width
        self.word_embeddings = nn.Embedding(
            config.vocab_size, width, padding_idx=config.pad_token_id
        )
        self.position_embeddings = nn.Embedding(config.max_positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = Dropout(config.dropout)

    def forward(self, ids_BL: torch.Tensor, first_position: int = 0) -> torch.Tensor:
        last = first_position + ids_BL.shape[1]
        return self.at(ids_BL, torch.arange(first_position, last, device=ids_BL.device))

    def at(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The same for ids of any shape with their positions."""
        return self.dropout(self.normed(ids, positions))

    def normed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What `at` gives before dropout."""
        return self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings(positions))


class Projections(nn.Module):
    """Query, key and value maps; keys and values may come from another width (the picture)."""

    def __init__(self, config: BlipConfig, source_width: int) -> None:
        super().__init__()
        self.heads = config.text_heads
        self.head_width = config.text_width // config.text_heads
        self.query = Linear(config.text_width, config.text_width)
        self.key = Linear(source_width, config.text_width)
        self.value = Linear(source_width, config.text_width)

    def queries(self, states_BLD: torch.Tensor) -> torch.Tensor:
        """[B, L, D] -> [B, H, L, K]."""
        return self.heads_of(self.query(states_BLD))

    def keys_values(self, source_BSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, S, source width] -> keys and values [B, H, S, K]."""
        return self.heads_of(self.key(source_BSD)), self.heads_of(self.value(source_BSD))

    def of_tokens(self, states_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of one token of each of few rows, [N, D]: query, key and value [N, H, K]."""
        all_three = of_few_rows(states_ND, self.query, self.key, self.value)
        return tuple(part.unflatten(1, (self.heads, -1)) for part in all_three)

    def few_queries(self, states_BLD: torch.Tensor) -> torch.Tensor:
        """`queries` of few tokens, without gradients."""
        return self.heads_of(*of_few_rows(states_BLD, self.query))

    def heads_of(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """[B, L, D] -> [B, H, L, K]."""
        return x_BLD.unflatten(2, (self.heads, -1)).transpose(1, 2)


class AddNorm(nn.Module):
    """Linear map, dropout, residual, norm: the end of attention."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.dense = Linear(config.text_width, config.text_width)
        self.LayerNorm = AddLayerNorm(config.text_width, NORM_EPS)
        self.dropout = config.dropout

    def forward(self, branch: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(residual, self.dense(branch), self.dropout)[1]


def ends_of_kinds(
    ends: Sequence[AddNorm], branches: Sequence[torch.Tensor], residual: torch.Tensor
) -> torch.Tensor:
    """Ends of several attentions, each of rows of its own: [rows, D] each and [T, D] of all rows,
    one kind after the other, to [T, D] for a single product."""
    branches = [end.dense(branch) for end, branch in zip(ends, branches, strict=True)]
    return norms_of_kinds([end.LayerNorm for end in ends], residual, branches, ends[0].dropout)


class MedAttention(nn.Module):
    """Attention of tokens over themselves or over a picture's states.

    Attributes:
        looking: backend of `kernels.attention_pictures_runs`, for all of them.
    """

    looking = "auto"

    def __init__(self, config: BlipConfig, source_width: int) -> None:
        super().__init__()
        self.self = Projections(config, source_width)
        self.output = AddNorm(config)
        self.dropout = config.dropout

    def forward(
        self,
        states_BLD: torch.Tensor,
        source_BSD: torch.Tensor,
        key_mask: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        keys, values = self.self.keys_values(source_BSD)
        return self.attend(states_BLD, keys, values, key_mask, causal)

    def attend(
        self,
        states_BLD: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        key_mask: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """The same with keys and values [B, H, S, K] that are projected already."""
        context = attention(
            self.self.queries(states_BLD),
            keys,
            values,
            causal=causal,
            key_mask=key_mask,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.output(context.transpose(1, 2).flatten(2), states_BLD)

    def attend_few(
        self, states_BLD: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """`attend` of few tokens, without gradients."""
        context = attention(self.self.few_queries(states_BLD), keys, values)
        return self.output(context.transpose(1, 2).flatten(2), states_BLD)

    def attend_absorbed(self, states_BLD: torch.Tensor, source_BSD: torch.Tensor) -> torch.Tensor:
        """What `forward` gives in eval mode, with less work for few tokens: nothing is projected
        but they."""
        maps = self.self
        query = maps.few_queries(states_BLD)
        weights = (*(by_head(one, maps.heads) for one in (maps.key, maps.value)), maps.value.bias)
        return self.output(attention_absorbed(query, source_BSD, *weights), states_BLD)


class Intermediate(nn.Module):
    """The first map of the feed-forward network under the name that checkpoints know."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.text_width, config.text_intermediate)


class FeedForward(nn.Module):
    """The feed-forward network, whose first map is another module's, dropout, residual, norm."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.dense = MlpOutput(config.text_intermediate, config.text_width)
        self.LayerNorm = AddLayerNorm(config.text_width, NORM_EPS)
        self.dropout = config.dropout

    def forward(self, states: torch.Tensor, first: Intermediate) -> torch.Tensor:
        return self.LayerNorm(states, self.dense(states, first.dense), self.dropout)[1]


class MedLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; all but the first may be another layer's."""

    def __init__(self, config: BlipConfig, shared: "MedLayer | None") -> None:
        super().__init__()
        self.attention = MedAttention(config, config.text_width)
        if shared is None:
            self.crossattention = MedAttention(config, config.vision_width)
            self.intermediate = Intermediate(config)
            self.output = FeedForward(config)
        else:
            self.crossattention = shared.crossattention
            self.intermediate = shared.intermediate
            self.output = shared.output

    def forward(
        self,
        states_BLD: torch.Tensor,
        key_mask: torch.Tensor | None,
        image_states_BPD: torch.Tensor | None,
        causal: bool,
        image_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        states_BLD = self.attention(states_BLD, states_BLD, key_mask, causal)
        if image_states_BPD is not None:
            states_BLD = self.crossattention(states_BLD, image_states_BPD, image_mask)
        return self.feed_forward(states_BLD)

    def feed_forward(self, states: torch.Tensor) -> torch.Tensor:
        """The end of the layer: [..., D] -> [..., D]."""
        return self.output(states, self.intermediate)


class LayerStack(nn.Module):
    """The layers under the name that checkpoints know."""

    def __init__(self, config: BlipConfig, shared: "LayerStack | None") -> None:
        super().__init__()
        others = [None] * config.text_layers if shared is None else shared.layer
        self.layer = nn.ModuleList([MedLayer(config, other) for other in others])


class TextTransformer(nn.Module):
    """Token ids, and a picture's states or none, to token states.

    Attributes:
        recompute: layers run again in the backward pass, see `recompute`.
    """

    def __init__(self, config: BlipConfig, shared: "TextTransformer | None" = None) -> None:
        super().__init__()
        self.embeddings = Embeddings(config) if shared is None else shared.embeddings
        self.encoder = LayerStack(config, None if shared is None else shared.encoder)
        self.recompute = False

    def forward(
        self,
        ids_BL: torch.Tensor,
        mask_BL: torch.Tensor | None = None,
        image_states_BPD: torch.Tensor | None = None,
        causal: bool = False,
        image_mask_BP: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run all layers.

        Args:
            ids_BL: [B, L] int64.
            mask_BL: [B, L], non-zero where there is a token; None for no padding.
            image_states_BPD: [B, P, vision width]; None skips cross-attention.
            causal: a token sees itself and earlier ones only.
            image_mask_BP: [B, P], non-zero where there is a state; None where all are. A picture's
                all are, a question's are not.

        Returns:
            [B, L, D].
        """
        key_mask, image_mask = (None if m is None else m.bool() for m in (mask_BL, image_mask_BP))
        states = self.embeddings(ids_BL)
        for layer in self.encoder.layer:
            inputs = (states, key_mask, image_states_BPD, causal, image_mask)
            states = run_layer(layer, *inputs, recompute=self.recompute)
        return states


class TextDecoder(nn.Module):
    """Image-grounded decoder: next-token logits for every position."""

    def __init__(self, config: BlipConfig, shared: TextTransformer | None) -> None:
        super().__init__()
        self.bert = TextTransformer(config, shared)
        self.cls = LmHead(config, self.bert.embeddings.word_embeddings)

    def forward(
        self,
        ids_BL: torch.Tensor,
        mask_BL: torch.Tensor | None,
        image_states_BPD: torch.Tensor,
        image_mask_BP: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, L] ids and [B, P, vision width] -> logits [B, L, V]."""
        states = self.bert(ids_BL, mask_BL, image_states_BPD, True, image_mask_BP)
        return self.cls.predictions(states)


def initialise_text(module: nn.Module, std: float) -> None:
    """BERT's fresh weights: normal of deviation `std`, biases 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
