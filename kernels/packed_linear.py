"""A linear map whose weight lies as the CPU's matrix library, oneDNN, multiplies with it.

`F.linear` lays a weight out anew in every call: with few rows of bf16 that takes longer than the
product, and in fp32, where another library multiplies, about as long. The operations are PyTorch's
own, with which its compiler does the same; they have no public name, so a version that lacks them
packs nothing.
"""

import torch
import torch.nn.functional as F

OPERATIONS = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")


def packing_problem(weight: torch.Tensor) -> str | None:
    """Why a weight cannot be packed here, or None when it can."""
    if weight.device.type != "cpu":
        return f"weights are on {weight.device.type}"
    if weight.dtype not in (torch.float32, torch.bfloat16):
        return f"it packs float32 and bfloat16, not {str(weight.dtype)[6:]}"
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch is built without oneDNN"
    if missing := [name for name in OPERATIONS if not hasattr(torch.ops.mkldnn, name)]:
        return f"this PyTorch has no mkldnn.{missing[0]}"
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "the processor does not multiply bfloat16"
    return None


def pack(weight: torch.Tensor) -> torch.Tensor:
    """[O, I] as the library wants it: an opaque tensor, for `packed_linear` and `unpack` alone."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """The weight that was packed, bit for bit: a copy."""
    return packed.to_dense()


def packed_linear(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False
) -> torch.Tensor:
    """x W^T + b of a packed weight, and the exact GELU of it in the same pass. No gradients.

    Args:
        x: [..., I], cast to the weight's dtype.
        packed: of [O, I], from `pack`.
        bias: [O] in its dtype, or None.
        gelu: whether the GELU follows, on sums that are not rounded yet.

    Returns:
        [..., O] in the weight's dtype.

    Raises:
        ValueError: shapes that do not fit.
        RuntimeError: gradients are asked for.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, bias)):
        raise RuntimeError("packed weights give no gradients: load them so that they can train")
    columns, width = packed.shape
    if x.shape[-1:] != (width,) or (bias is not None and bias.shape != (columns,)):
        raise ValueError(
            f"packed_linear: x {tuple(x.shape)}, weight {tuple(packed.shape)} and bias "
            f"{None if bias is None else tuple(bias.shape)} must be [..., I], [O, I] and [O]"
        )
    x = x.to(packed.dtype).contiguous()
    name, kind = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], kind)


def packed_linear_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False
) -> torch.Tensor:
    """The same of the weight as it was. See `packed_linear`."""
    product = F.linear(x.to(weight.dtype), weight, bias)
    return F.gelu(product) if gelu else product
