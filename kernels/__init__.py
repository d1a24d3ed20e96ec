"""The public operations: tensors in, tensors out."""

from kernels.adamw_ema.op import adamw_ema_
from kernels.add_norm.narrow import parted, rounded
from kernels.add_norm.op import add_norm
from kernels.add_norm.origin import by_torch, forget, told
from kernels.add_norm.several import add_norms
from kernels.all_gather import all_gather
from kernels.attention.absorbed import attention_absorbed
from kernels.attention.op import attention
from kernels.attention.packed import attention_packed
from kernels.attention_joined.op import attention_joined
from kernels.attention_pictures.op import (
    attention_pictures,
    attention_pictures_runs,
    by_picture,
)
from kernels.attention_rows.op import attention_rows
from kernels.attention_step.op import attention_step_
from kernels.attention_step.places import Places
from kernels.beam_candidates.op import beam_candidates
from kernels.bias_gelu.op import linear_gelu
from kernels.dropout import dropout
from kernels.ema import ema_
from kernels.hard_negatives.op import draw_hard_negatives
from kernels.itc_loss.op import itc_loss
from kernels.linear.op import linear, linear_into, linears, linears_in_turn
from kernels.linear_rows.op import linear_rows
from kernels.lm_loss.op import lm_loss
from kernels.mlp.op import mlp
from kernels.normalise.op import normalise
from kernels.nucleus_draw.op import nucleus_draw
from kernels.picture_tokens.op import picture_tokens
from kernels.resize.op import resize
from kernels.seeds import seeds_together, with_same_seeds

__all__ = [
    "Places",
    "adamw_ema_",
    "add_norm",
    "add_norms",
    "all_gather",
    "attention",
    "attention_absorbed",
    "attention_joined",
    "attention_packed",
    "attention_pictures",
    "attention_pictures_runs",
    "attention_rows",
    "attention_step_",
    "beam_candidates",
    "by_picture",
    "by_torch",
    "draw_hard_negatives",
    "dropout",
    "forget",
    "ema_",
    "itc_loss",
    "linear",
    "linear_gelu",
    "linear_into",
    "linear_rows",
    "linears",
    "linears_in_turn",
    "lm_loss",
    "mlp",
    "normalise",
    "nucleus_draw",
    "parted",
    "picture_tokens",
    "resize",
    "rounded",
    "seeds_together",
    "told",
    "with_same_seeds",
]
