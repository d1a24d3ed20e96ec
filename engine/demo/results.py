"""What the page asks for, computed: plain values that become JSON."""

import io
import math
import os
from typing import Any

from PIL import Image

from engine.config import ConfigError
from engine.data.images import BadSample, decode_image
from engine.data.picture_files import printable
from engine.demo.access import Refused
from engine.demo.config import DemoConfig
from engine.demo.folder import Folder
from engine.demo.models import DemoModels
from engine.report.thumbnails import SIDE, encoded, shrunk

LONGEST_TEXT = 1000
LARGEST_SHOWN = 1024
QUALITY = 90
# Why a picture cannot be used, for people.
REASONS = {
    "empty": "the picture is empty",
    "wrong_format": "this is no JPEG, PNG or WebP picture",
    "undecodable": "the picture is damaged",
    "truncated": "the picture is cut off",
    "too_many_pixels": "the picture has too many pixels",
    "too_many_scans": "the picture has too many scans",
    "too_thin": "the picture is too long and thin",
    "no_pixels": "the picture has no pixels",
}


class Results:
    """The things that the page can ask for.

    Args:
        config: of the demo.
        models: that do them.
        folder: to search, or None.
    """

    def __init__(self, config: DemoConfig, models: DemoModels, folder: Folder | None) -> None:
        self._config, self._models, self._folder = config, models, folder

    def rehearse(self) -> None:
        """Do everything once with an empty picture: a setting that does not fit is found at the
        start, and nobody waits for what is made at the first use.

        Raises:
            ConfigError: a setting that does not fit the models.
        """
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, "PNG")
        if self._models.captions:
            self.captions(out.getvalue())
        if self._models.matches:
            self.match(out.getvalue(), "a picture")
        if self._models.answers:
            self.answer(out.getvalue(), "what is it")

    def captions(self, content: bytes, prompt: str | None = None) -> dict[str, Any]:
        """`best` by beam search and `samples` from the nucleus.

        Args:
            content: of the picture.
            prompt: that they begin with; None takes the demo's.

        Raises:
            Refused: no usable picture, or no model that captions.
            ConfigError: a prompt that leaves no room for a caption.
        """
        style = self._models.style
        prompt = style.prompt if prompt is None else _text(prompt)
        blip, picture = _able(self._models.captions), self._opened(content)
        (states,) = blip.states([picture], 1, "encoded")
        how = {"prompt": prompt, "num_beams": self._config.num_beams}
        how |= {"max_length": style.max_length, "min_length": style.min_length}
        (best,) = blip.caption_states(states, **how)
        samples = []
        if self._config.samples:
            many = states.expand(self._config.samples, -1, -1)
            samples = blip.caption_states(many, top_p=0.9, **how)
        return {"best": best, "samples": samples}

    def match(self, content: bytes, text: str) -> dict[str, Any]:
        """`itm` probability, `itc` cosine, and a map of shares a word, see `AttentionMap`.

        Raises:
            Refused: no usable picture, or no model that matches.
            ConfigError: a text that is not usable.
        """
        blip, picture = _able(self._models.matches), self._opened(content)
        found = blip.attention_map(picture, _text(text), layer=self._config.attention_layer)
        cosine = (blip.embed_images(picture) * blip.embed_texts(text)).sum()
        words = [
            {"word": word, "map": [[round(share, 6) for share in row] for row in rows]}
            for word, rows in zip(found.words, found.maps.tolist(), strict=True)
        ]
        scores = {"itm": found.probability, "itc": cosine.item()}
        if not all(map(math.isfinite, scores.values())):
            raise ConfigError("the model's scores are not finite: its weights are no good")
        return scores | {"words": words}

    def answer(self, content: bytes, text: str) -> dict[str, Any]:
        """`answer` to a question, written by the model.

        Raises:
            Refused: no usable picture, or no model that answers.
            ConfigError: a question that is not usable.
        """
        blip, picture = _able(self._models.answers), self._opened(content)
        return {"answer": blip.answer(picture, _text(text))[0]}

    def search(self, text: str) -> dict[str, Any]:
        """`found`: pictures of the folder, the nearest first, each with `number`, `score`, `name`
        and `thumbnail` (null where it is gone).

        Raises:
            Refused: no folder to search.
            ConfigError: a text that is not usable.
        """
        folder, blip = self._searched(), _able(self._models.matches)
        feature = blip.embed_texts(_text(text))[0].cpu()
        found = []
        for number, score in folder.search(feature, self._config.results):
            sample = folder.reads[number]()
            image = shrunk(sample.image, SIDE)
            thumbnail = None if image is None else encoded(image, QUALITY)
            name = printable(os.path.basename(sample.key))
            found.append({"number": number, "score": score, "name": name, "thumbnail": thumbnail})
        return {"found": found, "of": len(folder.reads)}

    def picture(self, number: str) -> bytes:
        """A picture of the folder as WebP, at most 1024 pixels a side.

        Raises:
            Refused: no folder, no such number, or the picture is gone.
        """
        folder = self._searched()
        known = number.isascii() and number.isdigit() and len(number) < 10
        if not known or int(number) >= len(folder.reads):
            raise Refused(404, "there is no picture of that number")
        image = shrunk(folder.reads[int(number)]().image, LARGEST_SHOWN)
        if image is None:
            raise Refused(404, "this picture is gone from the folder")
        out = io.BytesIO()
        image.save(out, "WEBP", quality=QUALITY, method=2)
        return out.getvalue()

    def _searched(self) -> Folder:
        if self._folder is None:
            raise Refused(404, "no folder to search: start the demo with --folder")
        return self._folder

    def _opened(self, content: bytes) -> Image.Image:
        try:
            return decode_image(content, self._config.max_pixels)
        except BadSample as bad:
            raise Refused(400, REASONS.get(bad.reason, "this is no usable picture")) from None


def _able(blip: Any) -> Any:
    if blip is None:
        raise Refused(404, "none of the models can do this")
    return blip


def _text(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise Refused(400, f"the text is longer than {LONGEST_TEXT} characters")
    return text
