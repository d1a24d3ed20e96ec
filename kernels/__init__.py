"""The public operations: tensors in, tensors out."""

from kernels.all_gather import all_gather
from kernels.attention.op import attention
from kernels.attention.packed import attention_packed
from kernels.ema import ema_
from kernels.hard_negatives.op import draw_hard_negatives
from kernels.itc_loss.op import itc_loss

__all__ = [
    "all_gather",
    "attention",
    "attention_packed",
    "draw_hard_negatives",
    "ema_",
    "itc_loss",
]
