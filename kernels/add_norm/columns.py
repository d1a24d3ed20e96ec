"""A bias's gradient where the bias was added last: the sum over rows that the map's upstream
gradient brings along, of whoever made that and had it in its registers.

What is brought belongs to a tensor as it is. If the map's output was read by others too, their
gradients were added to it; then, and in all other cases, the map adds up itself.
"""

import torch


def ask(output: torch.Tensor) -> None:
    """Have whoever reads a map's output know that its gradient's sum over rows will be needed."""
    output.columns_asked = True


def asked(branch: torch.Tensor) -> bool:
    """Whether a map asks for it. To bring it in vain, or not at all, is no mistake."""
    return getattr(branch, "columns_asked", False)


def bring(gradient: torch.Tensor, columns: torch.Tensor) -> None:
    """Hand over a gradient's sum over rows with it, [D] of [..., D]."""
    gradient.columns = (columns, gradient._version)


def brought(gradient: torch.Tensor) -> torch.Tensor | None:
    """The sum that was brought, once, if the gradient has not been changed since."""
    # Taken off: whoever keeps gradients copies what others still hold.
    columns, changes = gradient.__dict__.pop("columns", (None, 0))
    return columns if changes == gradient._version else None
