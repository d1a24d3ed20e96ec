"""Queues of the momentum side are rings, and its encoders drop out as those that are trained."""

import pytest
import torch

from blip_model import Blip
from blip_model.momentum import NO_IMAGE_ID, Momentum, online_name
from tests.tiny import tiny_config, tiny_inputs

QUEUE, BATCHES = 5, (3, 3, 7, 5, 4)


class Ring:
    """Numbers written one by one over the oldest."""

    def __init__(self) -> None:
        self.numbers, self.pointer = [0] * QUEUE, 0

    def write(self, numbers: list[int]) -> None:
        """One after the other."""
        for number in numbers:
            self.numbers[self.pointer] = number
            self.pointer = (self.pointer + 1) % QUEUE


def empty_queues(*, with_ids: bool) -> Momentum:
    """Queues of zeros, and of ids that are none."""
    momentum = Momentum(Blip(tiny_config()), QUEUE, with_ids=with_ids)
    momentum.image_queue.zero_()
    momentum.text_queue.zero_()
    return momentum


def rows(numbers: list[int]) -> torch.Tensor:
    """Features that are their own number everywhere."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None].repeat(1, tiny_config().embed_dim)


def enqueue(momentum: Momentum, numbers: list[int], taken: bool | None = None) -> None:
    """Pictures' features of these numbers, texts' of the negative ones, ids of 100 more."""
    ids = torch.tensor(numbers) + 100 if momentum.with_ids else None
    flag = None if taken is None else torch.tensor(taken)
    momentum.enqueue(rows(numbers), -rows(numbers), ids, flag)


@pytest.mark.parametrize("taken", [None, True])
@pytest.mark.parametrize("with_ids", [False, True])
def test_queues_are_rings(with_ids: bool, taken: bool | None) -> None:
    momentum, ring, first = empty_queues(with_ids=with_ids), Ring(), 1
    for count in BATCHES:
        numbers = list(range(first, first + count))
        enqueue(momentum, numbers, taken)
        ring.write(numbers)
        first += count
        assert torch.equal(momentum.image_queue, rows(ring.numbers).T)
        assert torch.equal(momentum.text_queue, -rows(ring.numbers).T)
        assert getattr(momentum, momentum.pointer_name).tolist() == [ring.pointer]
        if with_ids:
            ids = [number + 100 if number else NO_IMAGE_ID for number in ring.numbers]
            assert momentum.idx_queue.tolist() == [ids]


@pytest.mark.parametrize("count", [3, 7])
def test_a_step_not_taken_leaves_queues_ids_and_pointer(count: int) -> None:
    momentum = empty_queues(with_ids=True)
    enqueue(momentum, [1, 2, 3])
    before = {name: buffer.clone() for name, buffer in momentum.named_buffers()}
    enqueue(momentum, list(range(4, 4 + count)), taken=False)
    assert {"image_queue", "text_queue", "idx_queue", "ptr_queue"} <= before.keys()
    for name, buffer in momentum.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_queues_begin_with_unit_vectors() -> None:
    """As features are: entries that none has taken yet are compared with like them."""
    torch.manual_seed(0)
    momentum = Momentum(Blip(tiny_config()), QUEUE)
    for queue in (momentum.image_queue, momentum.text_queue):
        torch.testing.assert_close(queue.norm(dim=0), torch.ones(QUEUE))
    assert not torch.equal(momentum.image_queue, momentum.text_queue)


def test_the_momentum_encoders_begin_as_frozen_copies() -> None:
    model = Blip(tiny_config())
    momentum, online = Momentum(model, QUEUE), dict(model.named_parameters())
    for name, parameter in momentum.named_parameters():
        assert torch.equal(parameter, online[online_name(name)]), name
        assert parameter is not online[online_name(name)] and not parameter.requires_grad, name


def test_the_momentum_encoders_drop_out_whatever_the_trained_one_does() -> None:
    torch.manual_seed(0)
    momentum = Momentum(Blip(tiny_config(dropout=0.1)).eval(), QUEUE)
    first, second = (momentum.features(*tiny_inputs(3)) for _ in range(2))
    assert not torch.equal(first.text_feature, second.text_feature)
