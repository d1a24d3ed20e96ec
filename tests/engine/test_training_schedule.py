"""Schedules against their closed forms."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from engine.config import TrainSection
from engine.training.schedule import learning_rate, soft_target_weight, total_steps

PAPER = TrainSection(
    global_batch_size=100,
    epochs=20,
    learning_rate=3e-4,
    min_learning_rate=1e-6,
    warmup_steps=30,
    warmup_learning_rate=1e-6,
    negative_group_size=50,
)
SAMPLES = 10_000
COSINE = replace(PAPER, schedule="cosine")


def test_the_original_warms_up_linearly_and_decays_by_epoch() -> None:
    rates = [learning_rate(PAPER, step, SAMPLES) for step in range(2000)]
    assert rates[0] == 1e-6
    assert rates[15] == pytest.approx((1e-6 + 3e-4) / 2)
    assert rates[30:100] == [3e-4] * 70
    for epoch in range(1, 20):
        assert rates[epoch * 100 : (epoch + 1) * 100] == [3e-4 * 0.9**epoch] * 100


def test_the_floor_holds() -> None:
    steep = replace(PAPER, decay=0.1)
    assert learning_rate(steep, 1999, SAMPLES) == 1e-6


def test_epochs_of_the_step_schedule_follow_samples_where_batches_cross_their_border() -> None:
    # 250 samples in batches of 100: the second epoch begins inside step 2, at slot 250.
    train = replace(PAPER, warmup_steps=0)
    rates = [learning_rate(train, step, 250) for step in range(6)]
    assert rates == [3e-4 * 0.9**epoch for epoch in (0, 0, 0, 1, 1, 2)]


def test_the_cosine_goes_from_the_peak_to_the_floor() -> None:
    rates = [learning_rate(COSINE, step, SAMPLES) for step in range(total_steps(COSINE, SAMPLES))]
    assert rates[29] < rates[30] == 3e-4
    assert rates[-1] == pytest.approx(1e-6, abs=1e-15)
    for step in (31, 500, 1500):
        share = (step - 30) / (1999 - 30)
        expected = 1e-6 + (3e-4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * share))
        assert rates[step] == pytest.approx(expected, rel=1e-12)
    assert all(earlier > later for earlier, later in pairwise(rates[30:]))


def test_the_cosine_by_epoch_is_the_originals() -> None:
    """cosine_lr_schedule: (lr - min) * 0.5 * (1 + cos(pi * epoch / max_epoch)) + min."""
    tuning = replace(PAPER, schedule="cosine_epoch", epochs=5, warmup_steps=0, min_learning_rate=0)
    rates = [learning_rate(tuning, step, SAMPLES) for step in range(total_steps(tuning, SAMPLES))]
    for epoch in range(5):
        expected = 3e-4 * 0.5 * (1 + math.cos(math.pi * epoch / 5))
        assert rates[epoch * 100 : (epoch + 1) * 100] == pytest.approx([expected] * 100, rel=1e-12)
    assert rates[0] == 3e-4
    # Ended by steps: as many epochs as fit, and the floor holds.
    short = replace(tuning, max_steps=200, min_learning_rate=1e-4)
    assert learning_rate(short, 99, SAMPLES) == 3e-4
    assert learning_rate(short, 100, SAMPLES) == pytest.approx(2e-4)
    inside = replace(tuning, max_steps=250)
    expected = 3e-4 * 0.5 * (1 + math.cos(math.pi * 2 / 2.5))
    assert learning_rate(inside, 249, SAMPLES) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 30, 31])
def test_a_run_no_longer_than_its_warm_up_has_rates(steps: int) -> None:
    short = replace(COSINE, max_steps=steps)
    assert all(1e-6 <= learning_rate(short, step, SAMPLES) <= 3e-4 for step in range(steps))


def test_the_soft_targets_ramp_over_two_epochs() -> None:
    weights = [soft_target_weight(0.4, 2.0, PAPER, step, SAMPLES) for step in range(300)]
    assert weights[0] == 0
    assert weights[50] == pytest.approx(0.1)
    assert weights[200:] == [0.4] * 100
    assert soft_target_weight(0.4, 0.0, PAPER, 0, SAMPLES) == 0.4


def test_steps_of_a_run() -> None:
    assert total_steps(PAPER, SAMPLES) == 2000
    assert total_steps(replace(PAPER, epochs=3), 250) == 8
    assert total_steps(replace(PAPER, max_steps=7), SAMPLES) == 7
