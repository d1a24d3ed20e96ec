"""A run's identity tells apart whatever changes a byte of its output, and nothing else."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.capfilt.config import CapFiltConfig, CaptionSection, PairsSection, RuleSection
from engine.capfilt.identity import hash_identity, hash_weights, of_settings

CONFIG = CapFiltConfig(
    captioner="a", filter="b", device="cpu", precision="bf16", data=PairsSection(train="web")
)


def network(**tensors: torch.Tensor) -> nn.Module:
    module = nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    return module


def test_weights_are_known_by_names_kinds_shapes_and_values() -> None:
    one, two = torch.arange(6.0), torch.zeros(2)
    known = hash_weights(network(a=one, b=two))
    others = [
        network(b=one, a=two),
        network(a=one, c=two),
        network(a=one.view(2, 3), b=two),
        network(a=one, b=two.int()),
        network(a=one, b=torch.tensor([0.0, 1e-30])),
        network(a=one),
    ]
    assert len({known, *map(hash_weights, others)}) == 1 + len(others)
    # Not by how they lie in memory, nor by which of them is first.
    strided = one.repeat_interleave(2)[::2]
    assert hash_weights(network(b=two, a=strided)) == known


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"precision": "fp32"},
        {"batch_size": 5},
        {"caption": CaptionSection(top_p=0.5)},
        {"caption": CaptionSection(repetition_penalty=1.5)},
        {"data": PairsSection(train="web", max_words=9)},
        {"data": PairsSection(train="web", max_tokens=9)},
        {"data": PairsSection(train="web", max_pixels=9)},
        {"rule": RuleSection(itm_threshold=0.6)},
        {"rule": RuleSection(drop_not_words=False)},
    ],
)
def test_what_changes_bytes_makes_another_run(change: dict) -> None:
    assert of_settings(replace(CONFIG, **change)) != of_settings(CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"output_dir": "elsewhere"},
        {"captioner": "the same elsewhere"},
        {"data": PairsSection(train="web", workers=9)},
        {"threads": 3},
    ],
)
def test_what_changes_none_does_not(change: dict) -> None:
    assert of_settings(replace(CONFIG, **change)) == of_settings(CONFIG)


def test_threads_sum_fp32_products_otherwise() -> None:
    exact = replace(CONFIG, precision="fp32")
    three, four = (of_settings(replace(exact, threads=count)) for count in (3, 4))
    assert (three["threads"], four["threads"]) == (3, 4)
    assert hash_identity(three) != hash_identity(four)
    assert hash_identity(dict(reversed(three.items()))) == hash_identity(three)
