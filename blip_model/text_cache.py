"""Incremental decoding over static caches, with picture keys and values projected once."""

import torch

from blip_model.blip import Blip
from kernels import attention


class DecodingCache:
    """Self-attention caches of N rows a picture, and every layer's cross-attention over a picture.

    Rows of one picture share its keys and values: they attend as one longer block of queries.

    Args:
        model: with a decoder, in eval mode.
        image_states: [B, P, vision width].
        max_length: positions to make room for.
    """

    def __init__(self, model: Blip, image_states: torch.Tensor, max_length: int) -> None:
        self.decoder = model.text_decoder
        self.pictures = len(image_states)
        self.rows = self.pictures
        self.length, self.max_length = 0, max_length
        layers = self.decoder.bert.encoder.layer
        self.image = [layer.crossattention.self.keys_values(image_states) for layer in layers]
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def extend(self, ids: torch.Tensor) -> torch.Tensor:
        """Append tokens [rows, L] and return float32 logits [rows, V] after the last of them.

        Raises:
            ValueError: more tokens than there is room for, or a second call with several tokens.
        """
        count = ids.shape[1]
        if self.length + count > self.max_length or (self.length and count > 1):
            raise ValueError(f"{count} tokens after {self.length} of {self.max_length}")
        states = self.decoder.bert.embeddings(ids, self.length)
        for number, layer in enumerate(self.decoder.bert.encoder.layer):
            states = self._self_attend(number, layer.attention, states)
            together = states.unflatten(0, (self.pictures, -1)).flatten(1, 2)
            together = layer.crossattention.attend(together, *self.image[number])
            states = together.reshape(states.shape)
            states = layer.feed_forward(states)
        self.length += count
        return self.decoder.cls.predictions(states[:, -1]).float()

    def _self_attend(
        self, number: int, block: torch.nn.Module, states: torch.Tensor
    ) -> torch.Tensor:
        query = block.self.queries(states)
        keys, values = block.self.keys_values(states)
        if number == len(self.keys):
            shape = (*keys.shape[:2], self.max_length, keys.shape[3])
            self.keys.append(keys.new_zeros(shape))
            self.values.append(values.new_zeros(shape))
        end = self.length + states.shape[1]
        self.keys[number][:, :, self.length : end] = keys
        self.values[number][:, :, self.length : end] = values
        context = attention(
            query,
            self.keys[number][:, :, :end],
            self.values[number][:, :, :end],
            causal=states.shape[1] > 1,
        )
        return block.output(context.transpose(1, 2).flatten(2), states)

    def expand(self, per_picture: int) -> None:
        """Give every picture `per_picture` equal rows instead of one."""
        self.reorder(torch.arange(self.rows).repeat_interleave(per_picture))

    def reorder(self, rows: torch.Tensor) -> None:
        """Row i continues what row rows[i] has; rows stay with their picture."""
        rows = rows.to(self.keys[0].device)
        self.keys = [cache.index_select(0, rows) for cache in self.keys]
        self.values = [cache.index_select(0, rows) for cache in self.values]
        self.rows = len(rows)

    def keep(self, pictures: torch.Tensor) -> None:
        """Go on with these pictures [K] and their rows only, in this order."""
        pictures = pictures.to(self.keys[0].device)
        per_picture = self.rows // self.pictures
        self.image = [
            (keys.index_select(0, pictures), values.index_select(0, pictures))
            for keys, values in self.image
        ]
        self.pictures = len(pictures)
        rows = pictures[:, None] * per_picture + torch.arange(per_picture, device=pictures.device)
        self.reorder(rows.flatten())
