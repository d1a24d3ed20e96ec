"""Everything that is looked at before a long run: all faults at once, in bounded time."""

from collections.abc import Callable, Iterator
from typing import Any

from engine.capfilt.config import CapFiltConfig
from engine.check import cleaning, folder, limits, optimisation, samples, settings, weights
from engine.check.cleaning import Cleaning
from engine.check.host import Host
from engine.check.setup import open_setup
from engine.config import ConfigError, RunConfig
from engine.findings import Finding, error

CHECKS = (
    *settings.CHECKS,
    *samples.CHECKS,
    *optimisation.CHECKS,
    *weights.CHECKS,
    *folder.CHECKS,
    *limits.CHECKS,
)


def check_training(config: RunConfig, task: str, ranks: int, host: Host) -> list[Finding]:
    """Faults of a pretraining or a fine-tuning, errors first.

    Args:
        config: of the run.
        task: `pretrain`, or what is fine-tuned.
        ranks: processes that it will have.
        host: limits of the machine.
    """
    setup, findings = open_setup(config, task, ranks, host)
    for look in CHECKS:
        findings += _by(look, setup)
    return in_order(findings)


def check_cleaning(config: CapFiltConfig, host: Host) -> list[Finding]:
    """Faults of a captioning-and-filtering run, errors first."""
    run = Cleaning(config, host)
    return in_order([finding for look in cleaning.CHECKS for finding in _by(look, run)])


def _by(look: Callable[[Any], Iterator[Finding]], run: Any) -> list[Finding]:
    """What one check finds; one that is refused leaves the others be."""
    try:
        return list(look(run))
    except ConfigError as refused:
        return [error(look.__name__, str(refused))]


def in_order(findings: list[Finding]) -> list[Finding]:
    """Each once, errors first."""
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity != "error")
