"""The temperature stays in its range, and one that lies in it is left as it is."""

import pytest
import torch

from blip_model import Blip
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    ("learned", "kept"), [(2.0, 0.5), (0.51, 0.5), (1e-5, 0.001), (-1.0, 0.001), (0.07, 0.07)]
)
def test_the_temperature_is_brought_into_its_range(learned: float, kept: float) -> None:
    model = Blip(tiny_config())
    with torch.no_grad():
        model.temp.fill_(learned)
    model.clamp_temperature_()
    assert torch.equal(model.temp.detach(), torch.tensor(kept))


def test_a_network_without_heads_has_nothing_to_bring_there() -> None:
    model = Blip(tiny_config(), heads=False)
    model.clamp_temperature_()
    assert model.temp is None
