"""Faults of batches, queues and schedules."""

from collections.abc import Iterator

from engine.check.setup import Setup
from engine.config import TrainSection
from engine.data.micro_batches import micro_batch_size
from engine.data.mixture import open_mixture, order_of
from engine.data.tokenizer import refuse_long_texts
from engine.findings import Finding, error, refusals, warning
from engine.training import schedule

# AdamW at these rates diverges, may diverge, or moves nothing.
RUINOUS, HIGH, LOW = 0.1, 5e-3, 1e-7
# A schedule that ends above this part of the peak has not annealed.
ANNEALED = 0.5
MANY_STEPS = 2000


def batches(setup: Setup) -> Iterator[Finding]:
    """The global batch against ranks, negative groups and pairs."""
    config = setup.config
    yield from refusals("batch", lambda: micro_batch_size(config, setup.ranks))
    yield from refusals(
        "positions",
        lambda: refuse_long_texts(config, setup.network),
        "lower data.max_tokens",
    )
    batch = config.train.global_batch_size
    if setup.train is not None and setup.train.count < batch:
        yield error(
            "too_few_pairs",
            f"train.global_batch_size {batch} is more than the {setup.train.count} pairs of "
            "data.train: a pair would meet itself in one batch as its own negative; lower it, or "
            "give more pairs",
        )


def queues(setup: Setup) -> Iterator[Finding]:
    """The queues of momentum features against batch and set."""
    size, batch = setup.config.model.queue_size, setup.config.train.global_batch_size
    if not setup.contrasts or not size:
        return
    if setup.train is not None and size + batch > setup.train.count:
        yield warning(
            "queue_larger_than_set",
            f"model.queue_size {size} and train.global_batch_size {batch} are more than the "
            f"{setup.train.count} pairs of data.train: pairs meet themselves there as negatives; "
            f"lower it to at most {max(0, (setup.train.count // 2 - batch) // batch * batch)}",
        )
    if size % batch:
        yield warning(
            "queue_not_divisible",
            f"model.queue_size {size} is no multiple of train.global_batch_size {batch}, which the "
            f"original refuses: take {max(1, round(size / batch)) * batch}",
        )


def rates(setup: Setup) -> Iterator[Finding]:
    """Learning rates that no run needs."""
    train = setup.config.train
    peak = train.learning_rate
    if peak >= RUINOUS:
        yield error(
            "learning_rate",
            f"train.learning_rate {peak:g} makes AdamW diverge: the original pretrains at 3e-4 and "
            "fine-tunes at 1e-5",
        )
    elif peak > HIGH or peak < LOW:
        what = "is high: the run may diverge" if peak > HIGH else "moves next to nothing"
        yield warning(
            "learning_rate",
            f"train.learning_rate {peak:g} {what}; the original pretrains at 3e-4 and fine-tunes "
            "at 1e-5",
        )
    if train.min_learning_rate > peak:
        yield error(
            "min_learning_rate",
            f"train.min_learning_rate {train.min_learning_rate:g} is above train.learning_rate "
            f"{peak:g}: lower it",
        )
    if train.warmup_steps and train.warmup_learning_rate > peak:
        yield warning(
            "warmup_learning_rate",
            f"train.warmup_learning_rate {train.warmup_learning_rate:g} is above "
            f"train.learning_rate {peak:g}: the rate would fall while it warms up; lower it",
        )


def lengths(setup: Setup) -> Iterator[Finding]:
    """The length of the run against warm-up, ramps and annealing."""
    train, steps = setup.config.train, setup.steps
    if train.max_steps is not None and train.epochs != TrainSection.epochs:
        yield warning(
            "epochs_ignored",
            f"train.epochs {train.epochs} is ignored, because train.max_steps {train.max_steps} is "
            "set: leave one of the two out",
        )
    # A run of no steps leaves what it begins with.
    if not steps:
        return
    if train.warmup_steps >= steps:
        by_epochs = "train.epochs, train.max_steps is not set"
        length = by_epochs if train.max_steps is None else "train.max_steps"
        few = f"about {steps // 20}" if steps >= 20 else "0"
        yield error(
            "warmup",
            f"train.warmup_steps {train.warmup_steps} is not less than the run's {steps} steps "
            f"({length}): the rate never reaches its peak; set it to {few}",
        )
    if setup.train is None:
        return
    samples = setup.train.count
    last = schedule.learning_rate(train, steps - 1, samples)
    falls = train.warmup_steps < steps and train.min_learning_rate < train.learning_rate
    if falls and last > ANNEALED * train.learning_rate:
        cure = "" if train.schedule == "cosine" else "set train.schedule to cosine, or "
        yield warning(
            "never_anneals",
            f"train.schedule {train.schedule} ends at {last:.2g} of the peak's "
            f"{train.learning_rate:.2g}: the weights are never averaged by small steps; "
            f"{cure}train longer",
        )
    epochs = schedule.epochs(train, samples)
    ramp = setup.config.model.alpha_ramp_epochs
    if setup.contrasts and setup.config.model.alpha and ramp > epochs:
        yield warning(
            "alpha_ramp",
            f"model.alpha_ramp_epochs {ramp:g} is longer than the run's {epochs:.2g} epochs: the "
            "soft targets never get their weight; lower it",
        )


def mixing(setup: Setup) -> Iterator[Finding]:
    """The weights of several sets, and smaller pictures and shorter texts of the first steps."""
    data, seed = setup.config.data, setup.config.seed
    train, steps = setup.train, setup.steps
    if train is not None:
        yield from refusals(
            "data_weights",
            lambda: order_of(open_mixture(lambda *_: train.source, data), data, seed),
            "mend data.weights",
        )
    last = max((stage.until_step for stage in data.curriculum), default=0)
    if steps and last >= steps:
        yield warning(
            "curriculum",
            f"data.curriculum goes on until step {last} and the run has {steps}: no step sees "
            "whole pictures and texts; end it earlier",
        )


def saving(setup: Setup) -> Iterator[Finding]:
    """How much of a run a kill may cost, and what is said of it meanwhile."""
    steps, every = setup.steps, setup.config.checkpoint.every
    if not steps:
        return
    if steps > MANY_STEPS and (not every or every > steps // 2):
        yield warning(
            "checkpoint_every",
            f"checkpoint.every {every} saves nothing before half of {steps} steps: a kill loses "
            f"all of it; set it to about {max(100, steps // 20)}",
        )
    if setup.config.train.log_every > steps:
        yield warning(
            "log_every",
            f"train.log_every {setup.config.train.log_every} is more than the run's {steps} steps: "
            "nothing is said before its end; lower it",
        )


CHECKS = (batches, queues, rates, lengths, mixing, saving)
