"""The original BLIP's network in plain PyTorch, under its own state-dict names.

Our rendering of salesforce/BLIP (models/vit.py, models/med.py), for measuring against; nothing of
`blip_model` but the sizes is used, so that a faster network there leaves the yardstick alone.
`attend` is a parameter: the original multiplies matrices, the strong peer calls SDPA.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from blip_model.config import BlipConfig

Attend = Callable[..., torch.Tensor]
HIDDEN = -10000.0


def by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: nn.Dropout,
) -> torch.Tensor:
    """Attention as the original computes it: [B, H, L, K] each, `mask` is added to the scores."""
    scores = torch.matmul(query, key.transpose(-1, -2)) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + mask
    return torch.matmul(dropout(scores.softmax(-1)), value)


def by_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: nn.Dropout,
) -> torch.Tensor:
    """The same through PyTorch's fused kernels."""
    probability = dropout.p if dropout.training else 0.0
    mask = None if mask is None else mask.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, mask, probability)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, L, D] -> [B, H, L, K]."""
    return x.view(*x.shape[:2], heads, -1).permute(0, 2, 1, 3)


def join_heads(x: torch.Tensor) -> torch.Tensor:
    """[B, H, L, K] -> [B, L, D]."""
    return x.permute(0, 2, 1, 3).contiguous().flatten(2)


class VisionAttention(nn.Module):
    def __init__(self, width: int, heads: int, attend: Attend) -> None:
        super().__init__()
        self.heads, self.attend = heads, attend
        self.qkv = nn.Linear(width, 3 * width)
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, length, width = x.shape
        qkv = self.qkv(x).reshape(count, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return self.proj(join_heads(self.attend(query, key, value, None, self.attn_drop)))


class DropPath(nn.Module):
    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.probability == 0.0 or not self.training:
            return x
        keep = 1 - self.probability
        return x * x.new_empty(len(x), 1, 1).bernoulli_(keep).div_(keep)


class VisionBlock(nn.Module):
    def __init__(self, config: BlipConfig, drop_path: float, attend: Attend) -> None:
        super().__init__()
        width = config.vision_width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = VisionAttention(width, config.vision_heads, attend)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        inner = F.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + self.drop_path(self.mlp["fc2"](inner))


class VisionTransformer(nn.Module):
    """[B, 3, H, W] -> [B, P, D]."""

    def __init__(self, config: BlipConfig, attend: Attend) -> None:
        super().__init__()
        width, size = config.vision_width, config.patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, size, stride=size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.image_tokens, width))
        rates = torch.linspace(0, config.vision_drop_path, config.vision_layers).tolist()
        self.blocks = nn.ModuleList([VisionBlock(config, rate, attend) for rate in rates])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed["proj"](image).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Embeddings(nn.Module):
    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        width = config.text_width
        self.word_embeddings = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.word_embeddings(ids) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x))


class SelfAttention(nn.Module):
    """Projections and attention; keys and values are projected from `source` at every call."""

    def __init__(self, config: BlipConfig, source_width: int, attend: Attend) -> None:
        super().__init__()
        self.heads, self.attend = config.text_heads, attend
        self.query = nn.Linear(config.text_width, config.text_width)
        self.key = nn.Linear(source_width, config.text_width)
        self.value = nn.Linear(source_width, config.text_width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: torch.Tensor, source: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        key = split_heads(self.key(source), self.heads)
        value = split_heads(self.value(source), self.heads)
        query = split_heads(self.query(x), self.heads)
        return join_heads(self.attend(query, key, value, mask, self.dropout))


class Output(nn.Module):
    def __init__(self, config: BlipConfig, source_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(source_width, config.text_width)
        self.LayerNorm = nn.LayerNorm(config.text_width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, branch: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(branch)) + residual)


def attention_block(config: BlipConfig, source_width: int, attend: Attend) -> nn.ModuleDict:
    """Attention and its output under the names of checkpoints."""
    return nn.ModuleDict(
        {
            "self": SelfAttention(config, source_width, attend),
            "output": Output(config, config.text_width),
        }
    )


class Layer(nn.Module):
    """Self-attention, cross-attention, feed-forward; a decoder's layer shares the last two."""

    def __init__(self, config: BlipConfig, attend: Attend, shared: "Layer | None") -> None:
        super().__init__()
        self.attention = attention_block(config, config.text_width, attend)
        if shared is None:
            self.crossattention = attention_block(config, config.vision_width, attend)
            dense = nn.Linear(config.text_width, config.text_intermediate)
            self.intermediate = nn.ModuleDict({"dense": dense})
            self.output = Output(config, config.text_intermediate)
        else:
            self.crossattention = shared.crossattention
            self.intermediate, self.output = shared.intermediate, shared.output

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor,
        image: torch.Tensor | None,
        image_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        x = self.attention["output"](self.attention["self"](x, x, mask), x)
        if image is not None:
            seen = self.crossattention["self"](x, image, image_mask)
            x = self.crossattention["output"](seen, x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class TextTransformer(nn.Module):
    """[B, L] ids, and picture states or none, -> [B, L, D]; padding is masked, not left out."""

    def __init__(
        self, config: BlipConfig, attend: Attend, shared: "TextTransformer | None" = None
    ) -> None:
        super().__init__()
        others = [None] * config.text_layers if shared is None else shared.encoder["layer"]
        self.embeddings = Embeddings(config) if shared is None else shared.embeddings
        layers = nn.ModuleList([Layer(config, attend, other) for other in others])
        self.encoder = nn.ModuleDict({"layer": layers})
        # The original adds a mask of zeros to the picture's scores; a fused kernel needs none.
        self.masks_pictures = attend is by_products

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        image: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        visible = mask[:, None, None, :].float()
        if causal:
            length = ids.shape[1]
            visible = visible * torch.ones(length, length, device=ids.device).tril()
        image_mask = None
        if image is not None and self.masks_pictures:
            image_mask = image.new_zeros(len(image), 1, 1, image.shape[1])
        x, added = self.embeddings(ids), (1.0 - visible) * HIDDEN
        for layer in self.encoder["layer"]:
            x = layer(x, added, image, image_mask)
        return x


class TextDecoder(nn.Module):
    """Next-token logits [B, L, V]."""

    def __init__(self, config: BlipConfig, attend: Attend, encoder: TextTransformer) -> None:
        super().__init__()
        self.bert = TextTransformer(config, attend, encoder)
        width, words = config.text_width, encoder.embeddings.word_embeddings
        dense, norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        predictions = nn.Module()
        predictions.bias = nn.Parameter(torch.zeros(config.vocab_size))
        predictions.transform = nn.ModuleDict({"dense": dense, "LayerNorm": norm})
        predictions.decoder = nn.Linear(width, config.vocab_size, device="meta")
        predictions.decoder.weight, predictions.decoder.bias = words.weight, predictions.bias
        self.cls = nn.ModuleDict({"predictions": predictions})

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        head = self.cls["predictions"]
        x = F.gelu(head.transform["dense"](self.bert(ids, mask, image, causal=True)))
        return head.decoder(head.transform["LayerNorm"](x))
