"""Every schedule as a pure function of the step."""

import math

from engine.config import TrainSection


def steps_per_epoch(samples: int, global_batch_size: int) -> float:
    """Optimizer steps of one pass; batches cross epoch borders, so it may be a fraction."""
    return samples / global_batch_size


def total_steps(train: TrainSection, samples: int) -> int:
    """Steps of the whole run."""
    if train.max_steps is not None:
        return train.max_steps
    return math.ceil(train.epochs * steps_per_epoch(samples, train.global_batch_size))


def epochs(train: TrainSection, samples: int) -> float:
    """Passes of the whole run; a fraction where max_steps ends it inside of one."""
    if train.max_steps is None:
        return train.epochs
    return train.max_steps / steps_per_epoch(samples, train.global_batch_size)


def learning_rate(train: TrainSection, step: int, samples: int) -> float:
    """Rate of a step: linear warm-up, then the original's steps or a cosine to the floor.

    `step`: peak * decay ** epoch, not below the floor (the original's pretraining schedule).
    `cosine`: half a cosine from the end of the warm-up to the last step (arXiv:1608.03983).
    `cosine_epoch`: the same over whole epochs, constant in each: floor + (peak - floor) *
    (1 + cos(pi * epoch / epochs)) / 2, epoch from 0 (the original's fine-tuning schedule).
    """
    if step < train.warmup_steps:
        rise = train.learning_rate - train.warmup_learning_rate
        return train.warmup_learning_rate + rise * step / train.warmup_steps
    epoch = int(step / steps_per_epoch(samples, train.global_batch_size))
    if train.schedule == "step":
        return max(train.min_learning_rate, train.learning_rate * train.decay**epoch)
    if train.schedule == "cosine_epoch":
        # A run of no steps has no epochs either.
        progress = epoch / epochs(train, samples) if epoch else 0.0
    else:
        last = max(total_steps(train, samples) - 1, train.warmup_steps + 1)
        progress = min(1.0, (step - train.warmup_steps) / (last - train.warmup_steps))
    span = train.learning_rate - train.min_learning_rate
    return train.min_learning_rate + span * (1 + math.cos(math.pi * progress)) / 2


def soft_target_weight(
    alpha: float, ramp_epochs: float, train: TrainSection, step: int, samples: int
) -> float:
    """alpha of a step: linear from 0 over the first `ramp_epochs` epochs."""
    ramp = ramp_epochs * steps_per_epoch(samples, train.global_batch_size)
    return alpha * min(1.0, step / ramp) if ramp > 0 else alpha
