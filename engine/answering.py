"""Answers to questions that a model has read: the likeliest of given ones, or written ones."""

from collections.abc import Iterable, Sequence

from blip_model.answers import QuestionStates
from blip_model.beams import Beams
from engine.config import ConfigError
from engine.data.captions import valid_text
from engine.data.picture_files import printable
from engine.encoding import Encoding
from engine.given import require_many


def answers_among(given: str | Iterable[str]) -> list[str]:
    """Answers to choose from, as a call in Python is given them.

    Raises:
        ConfigError: none, or one that is no text.
    """
    require_many(given, "among", "answers")
    many = [given] if isinstance(given, str) else list(given)
    if not many:
        raise ConfigError("among: no answer to choose from")
    for number, one in enumerate(many):
        if not isinstance(one, str) or not valid_text(one).strip():
            raise ConfigError(f"among[{number}] is no answer: {printable(repr(one))[:60]}")
    return many


class Answerer:
    """Answers to questions.

    Args:
        blip: with an answering decoder.
        among: answers of which the likeliest is chosen; None writes answers by beam search.
        shortlist: answers that are told apart by all their tokens, those whose first is likeliest.
        num_beams: of written answers.
        max_length: tokens of written answers, [DEC] and [SEP] included.
        min_length: of the same.

    Raises:
        ConfigError: lengths that the network has no positions for.
    """

    def __init__(
        self,
        blip: Encoding,
        among: Sequence[str] | None,
        *,
        shortlist: int,
        num_beams: int,
        max_length: int,
        min_length: int,
    ) -> None:
        self.blip, self.among, self.shortlist = blip, among, shortlist
        positions = blip.model.config.max_positions
        if among is None and not 1 < max_length <= positions:
            raise ConfigError(f"max_length is {max_length}: must be 2 to {positions}")
        self.how = Beams(num_beams=num_beams, max_length=max_length, min_length=min_length)
        if among is not None:
            texts = [valid_text(one) for one in among]
            tokens = blip.tokenizer.encode(texts, blip.model.config.max_positions)
            self._ids, self._mask = (part.to(blip.device) for part in tokens)

    def __call__(self, questions: QuestionStates) -> list[str]:
        """An answer to each question."""
        model = self.blip.model
        if self.among is not None:
            best = model.rank(questions, self._ids, self._mask, self.shortlist)
            return [self.among[number] for number in best.tolist()]
        return self.blip.tokenizer.decode(model.generate(questions, self.how))
