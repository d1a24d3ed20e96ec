"""Linear maps for inference on a CPU, whose weights are packed for it and exist only so."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from blip_model.layers import Linear, LinearGelu, MlpOutput
from kernels.packed_linear import pack, packed_linear, unpack


class PackedLinear(nn.Module):
    """A linear map that cannot be trained, moved or loaded into; checkpoints see its plain weight.

    Args:
        linear: whose weight and bias are copied, in the dtype that they have.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        bias = linear.bias
        if bias is not None:
            bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.register_parameter("bias", bias)
        self._packed = self._laid(linear.weight.detach())

    def _laid(self, weight: torch.Tensor) -> torch.Tensor:
        """[O, I] as products read it."""
        return pack(weight)

    @property
    def weight(self) -> torch.Tensor:
        """[O, I], a copy made for whoever asks."""
        return unpack(self._packed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return packed_linear(x, self._packed, self.bias)

    def with_gelu(self, x: torch.Tensor) -> torch.Tensor:
        """The map and the exact GELU after it."""
        return packed_linear(x, self._packed, self.bias, gelu=True)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state: dict, prefix: str, *rest: Any) -> None:
        raise RuntimeError(f"{prefix}weight is packed: load weights before they are")

    def refuse_other(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Refuse what would move the weight or change its dtype.

        Raises:
            RuntimeError: it would.
        """
        probe = torch.empty(0, dtype=self._packed.dtype)
        changed = change(probe)
        if (changed.device, changed.dtype) != (probe.device, probe.dtype):
            raise RuntimeError(
                f"packed weights stay {str(probe.dtype)[6:]} on the CPU: choose device and dtype "
                "before they are packed"
            )

    def _apply(self, change: Callable, recurse: bool = True) -> nn.Module:
        self.refuse_other(change)
        return super()._apply(change, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: an opaque tensor has no bytes that Python could copy."""
        return {**self.__dict__, "_packed": self.weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._packed = self._laid(self._packed)


class PackedLinearGelu(PackedLinear):
    """`LinearGelu`, packed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.with_gelu(x)


class PackedMlpOutput(PackedLinear):
    """`MlpOutput`, packed; the first map, which is handed in with the input, is packed too."""

    def forward(self, x: torch.Tensor, first: PackedLinear) -> torch.Tensor:
        return super().forward(first.with_gelu(x))


# What packs each kind of map.
PACKED = {
    nn.Linear: PackedLinear,
    Linear: PackedLinear,
    LinearGelu: PackedLinearGelu,
    MlpOutput: PackedMlpOutput,
}


class TurnedByHead(PackedLinear):
    """The map of values, whose weight lies head by head, turned, as decoding multiplies with it.

    Args:
        linear: whose weight and bias are copied, in the dtype that they have.
        heads: H.
    """

    def __init__(self, linear: nn.Linear, heads: int) -> None:
        self.heads = heads
        super().__init__(linear)

    def _laid(self, weight: torch.Tensor) -> torch.Tensor:
        """[O, I] -> [H, I, O / H]."""
        return weight.unflatten(0, (self.heads, -1)).transpose(1, 2).contiguous()

    @property
    def by_head(self) -> torch.Tensor:
        """[H, O / H, I]."""
        return self._packed.transpose(1, 2)

    @property
    def weight(self) -> torch.Tensor:
        """[O, I], a copy made for whoever asks."""
        return self.by_head.flatten(0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def by_head(one: nn.Module, heads: int) -> torch.Tensor:
    """The weight [H * K, I] of a map to H heads as [H, K, I]."""
    if isinstance(one, TurnedByHead):
        return one.by_head
    return one.weight.unflatten(0, (heads, -1))


def packed_parts(model: nn.Module) -> list[PackedLinear]:
    """Maps of a model whose weights are packed."""
    return [part for part in model.modules() if isinstance(part, PackedLinear)]
