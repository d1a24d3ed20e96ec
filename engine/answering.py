"""Answers to questions that a model has read: the likeliest of given ones, or written ones."""

from collections.abc import Sequence

from blip_model.answers import QuestionStates
from blip_model.beams import Beams
from engine.config import ConfigError
from engine.encoding import Encoding


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
            tokens = blip.tokenizer.encode(list(among), blip.model.config.max_positions)
            self._ids, self._mask = (part.to(blip.device) for part in tokens)

    def __call__(self, questions: QuestionStates) -> list[str]:
        """An answer to each question."""
        model = self.blip.model
        if self.among is not None:
            best = model.rank(questions, self._ids, self._mask, self.shortlist)
            return [self.among[number] for number in best.tolist()]
        return self.blip.tokenizer.decode(model.generate(questions, self.how))
