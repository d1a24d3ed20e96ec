"""Captions and scores the original's way, from the network of `original_network.py`.

Our rendering of salesforce/BLIP (models/blip.py `BLIP_Decoder.generate`, models/blip_itm.py) as far
as its work goes: words of a caption are cached, but every step projects the picture's keys and
values again in all layers; a text is scored padded to 35 tokens and projects them once more.
"""

import torch
import torch.nn.functional as F
from torch import nn

from bench.original_network import (
    HIDDEN,
    TextDecoder,
    TextTransformer,
    VisionTransformer,
    by_products,
    join_heads,
    split_heads,
)
from blip_model.config import BlipConfig

MAX_TOKENS = 35


class OriginalCaptioner(nn.Module):
    """Captions and scores under the names of checkpoints."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.visual_encoder = VisionTransformer(config, by_products)
        self.text_encoder = TextTransformer(config, by_products)
        self.text_decoder = TextDecoder(config, by_products, self.text_encoder)
        self.itm_head = nn.Linear(config.text_width, 2)

    def next_logits(self, image: torch.Tensor, ids: torch.Tensor, prompt: int) -> torch.Tensor:
        """Logits after the prompt and after each further token but the last, step by step.

        Args:
            image: [B, 3, H, W].
            ids: [B, L], [DEC] first.
            prompt: leading tokens that are read at once.

        Returns:
            [B, L - prompt, V].
        """
        states = self.visual_encoder(image)
        past: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(self._layers)
        steps = [self._step(ids[:, :prompt], 0, states, past)]
        for at in range(prompt, ids.shape[1] - 1):
            steps.append(self._step(ids[:, at : at + 1], at, states, past))
        return torch.stack(steps, 1)

    def match(
        self, image_states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Matching logits [B, 2] of a text each, padded."""
        ids = F.pad(ids, (0, MAX_TOKENS - ids.shape[1]))
        mask = F.pad(mask, (0, MAX_TOKENS - mask.shape[1]))
        return self.itm_head(self.text_encoder(ids, mask, image_states)[:, 0])

    @property
    def _layers(self) -> nn.ModuleList:
        return self.text_decoder.bert.encoder["layer"]

    def _step(self, ids: torch.Tensor, at: int, image: torch.Tensor, past: list) -> torch.Tensor:
        embeddings, length = self.text_decoder.bert.embeddings, ids.shape[1]
        positions = torch.arange(at, at + length, device=ids.device)
        x = embeddings.word_embeddings(ids) + embeddings.position_embeddings(positions)
        x = embeddings.LayerNorm(x)
        causal = torch.ones(length, at + length, device=ids.device).tril(at)
        for number, layer in enumerate(self._layers):
            block = layer.attention["self"]
            key, value = (split_heads(part(x), block.heads) for part in (block.key, block.value))
            if past[number] is not None:
                key, value = (
                    torch.cat(both, 2) for both in zip(past[number], (key, value), strict=True)
                )
            past[number] = key, value
            query = split_heads(block.query(x), block.heads)
            seen = block.attend(query, key, value, (1 - causal) * HIDDEN, block.dropout)
            x = layer.attention["output"](join_heads(seen), x)
            # Nothing of the picture is kept: med.py projects it in every call.
            x = layer.crossattention["output"](layer.crossattention["self"](x, image, None), x)
            x = layer.output(F.gelu(layer.intermediate["dense"](x)), x)
        head = self.text_decoder.cls["predictions"]
        # All tokens of the prompt go through the vocabulary; the last is read.
        x = head.transform["LayerNorm"](F.gelu(head.transform["dense"](x)))
        return head.decoder(x)[:, -1]
