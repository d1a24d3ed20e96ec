"""What a call in Python is given: no configuration has typed it or looked at its range."""

from collections.abc import Iterable
from numbers import Integral, Real

from engine.config import ConfigError
from engine.ranges import BATCH, COUNT, WRITING, lengths_problem

GIVEN = WRITING | {"batch_size": BATCH, "shortlist": COUNT}
FRACTIONS = ("top_p", "temperature", "repetition_penalty", "length_penalty")


def refuse_wrong(**settings: object) -> None:
    """Look at settings of `GIVEN`.

    Raises:
        ConfigError: another kind of number or none, one outside its range, or a least length that
            is more than the greatest; names setting and value, and what it may be.
    """
    for name, value in settings.items():
        allowed, whole = GIVEN[name], name not in FRACTIONS
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            said, kind = " ".join(repr(value).split())[:60], "whole number" if whole else "number"
            raise ConfigError(f"{name} is {said}: must be a {kind}, {allowed}")
        if value not in allowed:
            raise ConfigError(f"{name} is {value}: must be {allowed}")
    if "min_length" in settings:
        problem = lengths_problem(settings["min_length"], settings["max_length"])
        if problem:
            raise ConfigError(problem)


def require_many(things: object, name: str, what: str) -> None:
    """Look at what should be one or many of something.

    Args:
        things: given.
        name: of the argument.
        what: they are, in the plural.

    Raises:
        ConfigError: not even something to go through.
    """
    if not isinstance(things, Iterable):
        raise ConfigError(f"{name} is {type(things).__name__}: must be one or many {what}")
