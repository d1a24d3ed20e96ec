"""AdamW and the momentum weights that follow it, by their definitions."""

import torch


def adamw_ema_reference(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    first_moments: list[torch.Tensor],
    second_moments: list[torch.Tensor],
    followers: list[torch.Tensor | None],
    copies: list[torch.Tensor | None],
    follower_copies: list[torch.Tensor | None],
    factors: torch.Tensor,
    betas: tuple[float, float],
    eps: float,
    momentum: float,
) -> None:
    """One tensor after the other, in the order of PyTorch's fused AdamW. See `adamw_ema_`.

    With g scaled by `factors[0]` (Loshchilov and Hutter 2017, arXiv:1711.05101):
    w <- w - lr decay w, m <- m + (1 - beta1) (g - m), v <- beta2 v + (1 - beta2) g g,
    w <- w - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps), and then
    follower <- follower + (1 - momentum) (w - follower), copy <- w, follower's copy <- follower.
    Where `factors[4]` is 0 nothing changes.
    """
    scale, decay, step_size, root, taken = factors.unbind()
    if not taken:
        return
    moments, beside = (first_moments, second_moments), (followers, copies, follower_copies)
    tensors = zip(weights, gradients, *moments, *beside, strict=True)
    for weight, gradient, first, second, follower, copy, behind in tensors:
        gradient = gradient * scale
        weight.mul_(1 - decay)
        first.lerp_(gradient, 1 - betas[0])
        second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        weight.sub_(step_size * first / (second.sqrt() / root + eps))
        if follower is not None:
            follower.lerp_(weight, 1 - momentum)
        if copy is not None:
            copy.copy_(weight)
        if behind is not None:
            behind.copy_(follower)
