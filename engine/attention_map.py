"""Where in a picture a model looks for each word of a text."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from blip_model.attention_map import attention_maps, middle_layer
from blip_model.packed_layers import packed_parts
from engine.config import ConfigError
from engine.data.captions import clean_caption
from engine.encoding import MAX_WORDS, Encoding
from engine.pictures import Picture, is_one


@dataclass(frozen=True)
class AttentionMap:
    """A map a word.

    A map covers the whole picture, stretched to a square. A word's is the sum of its tokens' maps
    (`blip_model.attention_map` has the formula), and all of them are divided by one number so that
    together they sum to 1: a word's own sum is its share in the match. Where looking nowhere makes
    the text match, all are 0.

    Attributes:
        words: of the cleaned text, those that the network read.
        maps: [W, rows, columns] float32, at least 0.
        probability: that picture and text belong together.
    """

    words: list[str]
    maps: np.ndarray
    probability: float

    @property
    def whole(self) -> np.ndarray:
        """[rows, columns]: the maps of all words together."""
        return self.maps.sum(0)


def attention_map(
    blip: Encoding, image: Picture, text: str, layer: int | None = None
) -> AttentionMap:
    """Where the model looks in one picture for each word of one text.

    Args:
        blip: weights that match.
        image: one picture.
        text: one text.
        layer: whose cross-attention is shown, from 0 and not the last, in which words no longer
            reach the score; None takes the middle one.

    Raises:
        ConfigError: weights that do not match or are packed, several pictures or texts, one that
            cannot be used, or a layer that is not there.
    """
    blip.require("text_encoder")
    model = blip.model
    if packed_parts(model):
        raise ConfigError(
            'attention maps need gradients: load the weights with precision="fp32", not frozen'
        )
    if not is_one(image) or not isinstance(text, str):
        raise ConfigError("an attention map is made of one picture and one text")
    last = len(model.text_encoder.encoder.layer) - 2
    layer = middle_layer(model) if layer is None else layer
    if not isinstance(layer, Integral) or not 0 <= layer <= last:
        which = f"0 to {last}, of {last + 2} layers all but the last"
        raise ConfigError(f"layer is {layer}: must be {which}")
    ids, mask = blip.encode(text)
    words = blip.tokenizer.words(clean_caption(text, MAX_WORDS), ids.shape[1])
    if not words:
        raise ConfigError("a text is not usable: the model reads none of its characters")
    (states,) = blip.states([image], 1, "encoded")
    with blip.autocast():
        (seen,), logits = attention_maps(model, ids, mask, states, layer)
    maps = np.stack([seen[places].sum(0).cpu().numpy() for _, places in words])
    total = maps.sum(dtype=np.float64)
    maps = maps / np.float32(total) if total else maps
    return AttentionMap([word for word, _ in words], maps, logits.softmax(1)[0, 1].item())
