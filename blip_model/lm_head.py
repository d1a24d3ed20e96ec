"""The decoder's head: states to logits of the vocabulary."""

import torch
from torch import nn

from blip_model.config import BlipConfig
from blip_model.layers import LinearGelu

# Of BERT's norms.
NORM_EPS = 1e-12


class PredictionTransform(nn.Module):
    """Linear map, GELU, norm before the vocabulary."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.dense = LinearGelu(config.text_width, config.text_width)
        self.LayerNorm = nn.LayerNorm(config.text_width, eps=NORM_EPS)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(states))


class Predictions(nn.Module):
    """States to vocabulary logits; the matrix is the word embedding."""

    def __init__(self, config: BlipConfig, words: nn.Embedding) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.transform = PredictionTransform(config)
        # Made on the meta device: both of its tensors are replaced by shared ones at once.
        self.decoder = nn.Linear(config.text_width, config.vocab_size, device="meta")
        self.decoder.weight = words.weight
        self.decoder.bias = self.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(states))


class LmHead(nn.Module):
    """The LM head under the name that checkpoints know."""

    def __init__(self, config: BlipConfig, words: nn.Embedding) -> None:
        super().__init__()
        self.predictions = Predictions(config, words)
