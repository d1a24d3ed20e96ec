"""What decoding keeps of the pictures in its slots: their states, or every layer's keys and values.

Both give the same attention. States are a 24th of the other's bytes in a network of 12 layers and
need no projection, but a token that attends to them costs more: on a GPU, where products of few
rows are slow, always too much.
"""

import torch

from blip_model.config import BlipConfig
from blip_model.med import MedAttention
from kernels import linear_into


def states_suffice(config: BlipConfig, tokens: int) -> bool:
    """Whether attending to a picture's states is no more work than to its keys and values.

    Counted in multiply-adds of a layer, n states of width e, text width d and its heads: keys and
    values cost 2 n d e once and 2 n d a token; states 2 d e a token to carry query and context over
    and 2 n e a head of it.

    Args:
        config: sizes.
        tokens: that attend to a picture, those of all its rows together.
    """
    width, source, states = config.text_width, config.vision_width, config.image_tokens
    projected = 2 * states * width * (source + tokens)
    return tokens * 2 * source * (width + config.text_heads * states) <= projected


class KeptStates:
    """States of pictures in S slots, all that every layer attends to.

    Args:
        slots: S.
    """

    def __init__(self, slots: int) -> None:
        self._slots, self._states = slots, None

    def enter(
        self,
        number: int,
        block: MedAttention,
        slots: torch.Tensor | slice,
        image_states: torch.Tensor,
        states: torch.Tensor,
    ) -> torch.Tensor:
        """Pictures take slots, and their first tokens attend to them.

        Args:
            number: of the layer, the first one first.
            block: its cross-attention.
            slots: [N] int64, different ones, or the slice of all of them.
            image_states: [N, P, vision width].
            states: [N, L, D] of the tokens.

        Returns:
            [N, L, D].
        """
        if self._states is None:
            self._states = image_states.new_zeros(self._slots, *image_states.shape[1:])
        if number == 0:
            self._states[slots] = image_states
        return block.attend_absorbed(states, image_states)

    def attend(self, number: int, block: MedAttention, states: torch.Tensor) -> torch.Tensor:
        """Tokens [S, R, D] of all slots attend to their pictures in layer `number`."""
        return block.attend_absorbed(states, self._states)

    def keep(self, slots: torch.Tensor) -> None:
        """Go on with these slots [K] only, in this order."""
        self._states = self._states.index_select(0, slots)


class KeptKeysValues:
    """Every layer's keys and values of pictures in S slots; what it does is `KeptStates`'s.

    Args:
        slots: S.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def enter(
        self,
        number: int,
        block: MedAttention,
        slots: torch.Tensor | slice,
        image_states: torch.Tensor,
        states: torch.Tensor,
    ) -> torch.Tensor:
        """As `KeptStates.enter`."""
        if number < len(self._layers) and isinstance(slots, slice) and image_states.is_cuda:
            maps = block.self.key, block.self.value
            for each, room in zip(maps, self._layers[number], strict=True):
                kept = room.transpose(1, 2).flatten(2)
                linear_into(image_states, each.weight, each.bias, kept)
            return block.attend(states, *self._layers[number])
        pair = block.self.keys_values(image_states)
        if number == len(self._layers):
            self._layers.append(tuple(self._room_for(new) for new in pair))
        for room, new in zip(self._layers[number], pair, strict=True):
            room[slots] = new
        return block.attend(states, *pair)

    def attend(self, number: int, block: MedAttention, states: torch.Tensor) -> torch.Tensor:
        """As `KeptStates.attend`."""
        return block.attend_few(states, *self._layers[number])

    def keep(self, slots: torch.Tensor) -> None:
        """Go on with these slots [K] only, in this order."""
        self._layers = [tuple(t.index_select(0, slots) for t in pair) for pair in self._layers]

    def _room_for(self, new: torch.Tensor) -> torch.Tensor:
        """Contiguous by head, so that no step copies what it multiplies with; on a GPU as the
        projection gives it, which its kernel reads as fast and which is written faster."""
        heads, states, width = new.shape[1:]
        if new.is_cuda:
            return new.new_zeros(self._slots, states, heads, width).transpose(1, 2)
        return new.new_zeros(self._slots, heads, states, width)
