"""Incremental decoding over static caches: slots that pictures take and leave."""

import torch

from blip_model.blip import Blip
from blip_model.layers import for_products
from blip_model.med import MedLayer
from blip_model.picture_cache import KeptKeysValues, KeptStates, states_suffice
from kernels import Places, attention_step_

Pair = tuple[torch.Tensor, torch.Tensor]


class DecodingCache:
    """What S pictures with R rows each need to go on by a token.

    Of the rows, samples or beams, every layer's keys and values; of the picture, whatever is less
    work for all its tokens (see `picture_cache`): its rows attend to it as one longer block of
    queries. Slots differ in length, and what lies beyond a slot's length is not seen, so
    another picture takes it as it is. Slots that nobody holds are computed like the others.

    Args:
        model: with a decoder, in eval mode.
        slots: S.
        rows: R.
        max_length: positions of a row.

    Attributes:
        lengths: [S] int64, positions in use; `max_length` or more in a slot that nobody holds.
    """

    def __init__(self, model: Blip, slots: int, rows: int, max_length: int) -> None:
        self.config, self.decoder = model.config, model.text_decoder
        self.slots, self.rows, self.max_length = slots, rows, max_length
        device = self.decoder.bert.embeddings.word_embeddings.weight.device
        self.lengths = torch.zeros(slots, dtype=torch.int64, device=device)
        # Made when the first pictures tell shapes and dtypes.
        self._pictures: KeptStates | KeptKeysValues | None = None
        self._text: list[Pair] = []
        # [S * R, max_length]: the row in which what stands at a place of a row is kept, once rows
        # have gone on from others. Old ones of a slot serve the next picture: a prompt is in all
        # of the slot's rows, and what comes after it is noted anew.
        self._origins: torch.Tensor | None = None

    def admit(
        self, slots: torch.Tensor | None, image_states: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        """Let pictures take slots.

        Args:
            slots: [N] int64, different ones; None for all in order, which is written faster.
            image_states: [N, P, vision width].
            ids: [N, L], L at most `max_length`.

        Returns:
            float32 logits [N, V] after the last id; all rows of a picture start from the same.
        """
        if self._pictures is None:
            self._pictures = self._room_for_pictures(ids.shape[1])
        taken = slice(None) if slots is None else slots
        image_states = for_products(image_states)
        states = self.decoder.bert.embeddings(ids)
        for number, layer in enumerate(self.decoder.bert.encoder.layer):
            text = layer.attention.self.keys_values(states)
            if number == len(self._text):
                self._text.append(self._room_for(text))
            for cache, new in zip(self._text[number], text, strict=True):
                cache.unflatten(0, (self.slots, -1))[taken, :, :, : ids.shape[1]] = new[:, None].to(
                    cache.dtype
                )
            states = layer.attention.attend(states, *text, causal=True)
            entering = (number, layer.crossattention, taken, image_states)
            states = self._pictures.enter(*entering, states)
            states = layer.feed_forward(states)
        # By filling: a recording cannot copy a number to the device, as `lengths[taken] =` would.
        if slots is None:
            self.lengths.fill_(ids.shape[1])
        else:
            self.lengths.index_fill_(0, slots, ids.shape[1])
        return self.decoder.cls.predictions(states[:, -1]).float()

    def extend(self, ids: torch.Tensor) -> torch.Tensor:
        """Append a token to every row: ids [S * R] -> float32 logits [S * R, V] after it."""
        at = self.places.repeat_interleave(self.rows)
        if self._origins is not None:
            self._origins.scatter_(1, at[:, None], self._own_rows[:, None])
        places = Places(at, self._origins)
        states = self.decoder.bert.embeddings.at(ids, at)
        for number, layer in enumerate(self.decoder.bert.encoder.layer):
            states = self._self_attend(number, layer, states, places)
            together = states.view(self.slots, self.rows, -1)
            together = self._pictures.attend(number, layer.crossattention, together)
            states = layer.feed_forward(together.view(states.shape))
        self.lengths += 1
        return self.decoder.cls.predictions(states).float()

    @property
    def places(self) -> torch.Tensor:
        """[S] where the next token goes; in a slot that nobody holds, somewhere."""
        return self.lengths.clamp(max=self.max_length - 1)

    def reorder(self, rows: torch.Tensor) -> None:
        """Row i continues what row rows[i] has, [S * R] int64; rows stay in their slot."""
        if self._origins is None:
            self._origins = self._own_rows[:, None].repeat(1, self.max_length)
        self._origins.copy_(self._origins.index_select(0, rows))

    @property
    def _own_rows(self) -> torch.Tensor:
        return torch.arange(self.slots * self.rows, device=self.lengths.device)

    def keep(self, slots: torch.Tensor) -> None:
        """Go on with these slots [K] only, in this order."""
        rows = slots[:, None] * self.rows + torch.arange(self.rows, device=slots.device)
        self._pictures.keep(slots)
        self.slots, self.lengths = len(slots), self.lengths[slots]
        self._text = [tuple(t.index_select(0, rows.flatten()) for t in pair) for pair in self._text]
        if self._origins is not None:
            first = (self._own_rows // self.rows * self.rows)[:, None]
            self._origins = self._origins.index_select(0, rows.flatten()) % self.rows + first

    def _self_attend(
        self, number: int, layer: MedLayer, states: torch.Tensor, places: Places
    ) -> torch.Tensor:
        block = layer.attention
        new = block.self.of_tokens(states)
        return block.output(attention_step_(*new, *self._text[number], places), states)

    def _room_for_pictures(self, prompt: int) -> KeptStates | KeptKeysValues:
        """By the most tokens that a picture may get; the last of a row is chosen, not read.

        A GPU has a kernel for few queries of keys and values, and the memory for them.
        """
        tokens = prompt + self.rows * (self.max_length - 1 - prompt)
        suffice = not self.lengths.is_cuda and states_suffice(self.config, tokens)
        kind = KeptStates if suffice else KeptKeysValues
        return kind(self.slots)

    def _room_for(self, text: Pair) -> Pair:
        """Keys and values of a layer's rows, as the pictures' own contiguous by head.

        A CPU multiplies so few numbers faster in float32, in which they are what they were.
        """
        count, length = self.slots * self.rows, self.max_length
        shapes = [(count, new.shape[1], length, new.shape[3]) for new in text]
        kinds = [n.dtype if n.is_cuda else torch.promote_types(n.dtype, torch.float) for n in text]
        made = zip(text, shapes, kinds, strict=True)
        return tuple(new.new_zeros(shape, dtype=kind) for new, shape, kind in made)
