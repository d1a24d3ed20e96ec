"""The public operations: tensors in, tensors out."""

from kernels.all_gather import all_gather
from kernels.attention.op import attention
from kernels.ema import ema_
from kernels.hard_negatives.op import draw_hard_negatives
from kernels.itc_loss.op import itc_loss
from kernels.lm_loss.op import lm_loss

__all__ = ["all_gather", "attention", "draw_hard_negatives", "ema_", "itc_loss", "lm_loss"]
