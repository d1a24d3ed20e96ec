"""Linear maps and a layer norm that do what stands beside them too, in one pass on a GPU.

Names, shapes and starting values of their weights are those of `nn.Linear` and `nn.LayerNorm`;
on a CPU so is every bit of what they compute.
"""

from collections.abc import Sequence

import torch
from torch import nn

from kernels import (
    add_norm,
    add_norms,
    dropout,
    linear,
    linear_gelu,
    linear_rows,
    linears,
    linears_in_turn,
    mlp,
    rounded,
)

# What multiplies with a weight.
MAPS = (nn.Linear, nn.Conv2d)


class Linear(nn.Linear):
    """A linear map with a bias.

    Attributes:
        backend: of `kernels.linear`, for all of them.
    """

    backend = "auto"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias, backend=self.backend)


def together(x: torch.Tensor, *maps: nn.Module) -> tuple[torch.Tensor, ...]:
    """Several maps of one input, as one product where they are `Linear` and that is faster."""
    if not all(isinstance(each, Linear) for each in maps):
        return tuple(each(x) for each in maps)
    return linears(x, *_parameters(maps), backend=Linear.backend)


def together_in_turn(
    x: torch.Tensor, *maps: nn.Module
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """`together` of an input that others read too, and the input: those after should read that,
    see `kernels.linears_in_turn`."""
    if not all(isinstance(each, Linear) for each in maps):
        return tuple(each(x) for each in maps), x
    return linears_in_turn(x, *_parameters(maps), backend=Linear.backend)


def _parameters(maps: Sequence[nn.Linear]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [each.weight for each in maps], [each.bias for each in maps]


class Dropout(nn.Dropout):
    """`nn.Dropout` by `kernels.dropout`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.p) if self.training else x


class LinearGelu(nn.Linear):
    """A linear map and the exact GELU after it.

    Attributes:
        backend: of `kernels.linear_gelu`, for all of them.
    """

    backend = "auto"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear_gelu(x, self.weight, self.bias, backend=self.backend)


class MlpOutput(nn.Linear):
    """The second linear map of an MLP, which runs the first one and the exact GELU too.

    Checkpoints know the two maps as modules apart, so the first is handed in with the input.

    Attributes:
        keeps: what the GELU gives, see `kernels.mlp`.
        backend: of `kernels.mlp`, for all of them.
    """

    keeps = False
    backend = "auto"

    def forward(self, x: torch.Tensor, first: nn.Linear) -> torch.Tensor:
        settings = {"keeps": self.keeps, "backend": self.backend}
        return mlp(x, first.weight, first.bias, self.weight, self.bias, **settings)


class AddLayerNorm(nn.LayerNorm):
    """A residual addition, with dropout before it, and the layer norm after it.

    Args:
        width: of the rows.
        eps: added to the variance.
        feeds_product: the norm is read by one matrix product alone, so under autocast it may be
            written in its dtype at once.
        residual_is_kept: for the backward pass of another layer, see `kernels.add_norm`.

    Attributes:
        keeps: the norm, whatever reads it, see `kernels.add_norm`.
        backend: of `kernels.add_norm`, for all of them.
    """

    keeps = False
    backend = "auto"

    def __init__(
        self,
        width: int,
        eps: float,
        *,
        feeds_product: bool = False,
        residual_is_kept: bool = False,
    ) -> None:
        super().__init__(width, eps=eps)
        self.feeds_product, self.residual_is_kept = feeds_product, residual_is_kept

    def forward(
        self, residual: torch.Tensor, branch: torch.Tensor | None, dropout: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """residual + branch (without a branch, the residual) and its norm.

        Args:
            residual: [..., D].
            branch: [..., D], or None.
            dropout: probability of dropping a number of the branch, in training.
        """
        low = _low(residual)
        return add_norm(
            residual,
            branch,
            self.weight,
            self.bias,
            self.eps,
            norm_dtype=low if self.feeds_product else None,
            narrow_dtype=None if self.feeds_product else low,
            residual_is_kept=self.residual_is_kept,
            read_once=self.feeds_product,
            keeps=self.keeps,
            dropout=dropout if self.training else 0.0,
            backend=self.backend,
        )


def norms_of_kinds(
    norms: Sequence[AddLayerNorm],
    residual: torch.Tensor,
    branches: Sequence[torch.Tensor],
    dropout: float = 0.0,
) -> torch.Tensor:
    """What each norm gives of rows of its own, one kind after the other, for a single product.

    Args:
        norms: alike but for their weights.
        residual: [T, D].
        branches: of each norm, [rows, D], T rows in all.
        dropout: as `AddLayerNorm` takes it.
    """
    first = norms[0]
    return add_norms(
        residual,
        branches,
        [norm.weight for norm in norms],
        [norm.bias for norm in norms],
        first.eps,
        narrow_dtype=_low(residual),
        keeps=first.keeps,
        dropout=dropout if first.training else 0.0,
        backend=first.backend,
    )


def _low(x: torch.Tensor) -> torch.dtype | None:
    """The dtype that autocast has products in, if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def multiplied_weights(*modules: nn.Module | None) -> list[nn.Parameter]:
    """Weights and biases of all maps, which autocast casts, each once."""
    parts = (part for module in modules if module is not None for part in module.modules())
    of_maps = (map_.parameters(recurse=False) for map_ in parts if isinstance(map_, MAPS))
    return list(dict.fromkeys(parameter for own in of_maps for parameter in own))


def of_few_rows(x: torch.Tensor, *maps: nn.Module) -> tuple[torch.Tensor, ...]:
    """What each map makes of the same rows, which are few and ask for no gradients."""
    if all(isinstance(one, nn.Linear) for one in maps):
        return linear_rows(x, *((one.weight, one.bias) for one in maps))
    # Packed ones have no weight to hand out; each would cast the rows for itself.
    x = for_products(x)
    return tuple(one(x) for one in maps)


def for_products(states: torch.Tensor) -> torch.Tensor:
    """What many products read, in the dtype that autocast has them in: cast once instead of in
    each, and their gradients add up in it too."""
    kind = states.device.type
    if not torch.is_autocast_enabled(kind):
        return states
    return rounded(states, torch.get_autocast_dtype(kind))
