"""The captioning loss by its definition: all logits materialised, autograd."""

import torch
import torch.nn.functional as F

IGNORED = -100


def lm_loss_reference(
    states_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    weights_T: torch.Tensor,
    label_smoothing: float,
) -> torch.Tensor:
    """Weighted sum of -sum_v t_v log softmax_v(h w_v + b_v), t = (1 - eps) onehot + eps / V.

    (Szegedy et al. 2016, arXiv:1512.00567, section 7; the loss of the original BLIP's decoder.)
    See `lm_loss`. The projection is in the dtype that PyTorch takes, the loss in float32.
    """
    logits = F.linear(states_TD, weight_VD, bias_V)
    losses = F.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)),
        targets_T,
        reduction="none",
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
    )
    return (losses * weights_T).sum()
