"""A bias's gradient where the bias was added last: the sum over rows that the map's upstream
gradient brings along, of whoever made that and had it in its registers.

What is brought belongs to a tensor as it is, and to whoever looks at all of it. If the map's
output was read by others too, their gradients were added to it; then, and in all other cases, the
map adds up itself.
"""

import torch


def ask(output: torch.Tensor) -> None:
    """Have whoever reads a map's output know that its gradient's sum over rows will be needed; of
    one of several maps that are one product, the sum of all."""
    _whole(output).columns_asked = True


def asked(branch: torch.Tensor, *beside: torch.Tensor) -> bool:
    """Whether a map asks for it; of several branches, one product that made them all. To bring it
    in vain, or not at all, is no mistake."""
    whole = _whole(branch)
    together = all(_whole(other) is whole for other in beside)
    return together and getattr(whole, "columns_asked", False)


def bring(gradient: torch.Tensor, columns: torch.Tensor) -> None:
    """Hand over a gradient's sum over rows with it, [D] of [..., D]; with one of several that stand
    side by side in one contiguous tensor, the sums of all."""
    _whole(gradient).columns = (columns, gradient._version)


def brought(gradient: torch.Tensor) -> torch.Tensor | None:
    """The sum that was brought, once, if the gradient has not been changed since."""
    whole = _whole(gradient)
    columns, changes = getattr(whole, "columns", (None, 0))
    if columns is None or changes != gradient._version:
        return None
    alike = gradient.numel() == whole.numel() and gradient.shape[-1:] == columns.shape
    if not alike or not gradient.is_contiguous():
        return None
    # Taken off: whoever keeps gradients copies what others still hold.
    del whole.columns
    return columns


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor is a view of, if it is one."""
    return tensor if tensor._base is None else tensor._base
