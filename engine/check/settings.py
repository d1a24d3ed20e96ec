"""Faults of single settings that no other check looks at."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.check.setup import Setup
from engine.config import to_dict
from engine.differences import flat
from engine.findings import Finding, error, warning

# What gives access and would be saved in config.yaml: a password in a URL, signed URLs, tokens.
SECRET = re.compile(
    r"://[^/@\s:]*:[^/@\s]+@"
    r"|[?&](?:X-Amz-Signature|X-Goog-Signature|sig|token|AWSAccessKeyId)=[^&\s]+"
    r"|\bhf_[A-Za-z0-9]{30,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bghp_[A-Za-z0-9]{36}\b"
)


def secrets(tree: dict[str, Any]) -> Iterator[Finding]:
    """Settings that hold what must stay secret; the line does not repeat it.

    Args:
        tree: as `config.yaml` holds the settings.
    """
    for key, value in flat(tree).items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, str) and SECRET.search(one) for one in values):
            yield warning(
                "secret",
                f"{key} holds what looks like a password or token, which config.yaml would keep: "
                "give it by the environment or a credentials file",
            )


def in_settings(setup: Setup) -> Iterator[Finding]:
    """The same of a training run."""
    yield from secrets(to_dict(setup.config))


def evaluation(setup: Setup) -> Iterator[Finding]:
    """The shortlist, and an evaluation of what is trained on."""
    config, held_out = setup.config, setup.held_out
    if held_out is not None and setup.task in ("pretrain", "retrieval"):
        pictures = held_out.count
        if config.evaluate.shortlist > pictures:
            yield warning(
                "shortlist",
                f"evaluate.shortlist {config.evaluate.shortlist} is more than the {pictures} pairs "
                "of data.eval: everything would be re-ranked; lower it",
            )
    data = config.data
    train = data.train if isinstance(data.train, list) else [data.train]
    held = data.eval if isinstance(data.eval, list) else [data.eval or ""]
    same = {str(Path(one).absolute()) for one in train if one}
    both = same & {str(Path(one).absolute()) for one in held if one}
    if both:
        yield error(
            "eval_is_train",
            f"data.eval names what data.train names ({min(both)}): set it to held-out pairs",
        )


CHECKS = (in_settings, evaluation)
