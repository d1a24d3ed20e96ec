"""Self-attention of short sequences whose queries, keys and values are one product."""

from typing import Any

import torch

from kernels.attention.op import attention
from kernels.attention_joined.reference import attention_joined_reference, parts_of
from kernels.backend import choose, triton_problem
from kernels.columns import asked, bring

NAME = "attention_joined"
DTYPES = (torch.bfloat16, torch.float16)
# What a program holds: its row of scores in registers, all keys and values in shared memory.
LONGEST, WIDEST = 256, 64
# Without a way back keys and values go by.
LONGEST_STREAMED = 1024
# Major compute capabilities whose products read shared memory: Hopper, Blackwell of data centres.
# Others' read registers, and what does not fit in them goes through memory.
FAST = (9, 10)


class _AttentionJoined(torch.autograd.Function):
    """Keeps its input, its output and the sums of weights; the way back computes weights again."""

    @staticmethod
    def forward(ctx: Any, joined: torch.Tensor, heads: int, with_columns: bool) -> torch.Tensor:
        from kernels.attention_joined import triton_kernels

        joined = joined.contiguous()
        out, log_sum = triton_kernels.forward(joined, heads)
        ctx.save_for_backward(joined, out, log_sum)
        ctx.with_columns = with_columns
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        from kernels.attention_joined import triton_backward

        tensors = (upstream.contiguous(), *ctx.saved_tensors)
        gradient, columns = triton_backward.backward(*tensors, with_columns=ctx.with_columns)
        if columns is not None:
            bring(gradient, columns)
        return gradient, None, None


def attention_joined(
    joined_BPE: torch.Tensor, heads: int, *, backend: str = "auto"
) -> torch.Tensor:
    """Scaled dot-product attention in which each of P tokens sees all of its sequence.

    Args:
        joined_BPE: [B, P, 3 H K], of each token the queries of all heads, the keys, the values.
        heads: H.
        backend: `triton` (GPU; float16 and bfloat16, heads at most 64 wide, at most 256 tokens,
            or 1,024 where no gradient is asked for), which reads and writes them where they lie;
            `split` (as `attention` of the three), `reference` (the definition) or `auto`, which
            takes the first on Hopper and the like alone.

    Returns:
        [B, P, H K].

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    if joined_BPE.ndim != 3 or heads < 1 or joined_BPE.shape[2] % (3 * heads):
        raise ValueError(
            f"attention_joined: {tuple(joined_BPE.shape)} must be [B, P, 3 H K] with {heads} heads"
        )
    kind = joined_BPE.device.type
    if torch.is_autocast_enabled(kind):
        joined_BPE = joined_BPE.to(torch.get_autocast_dtype(kind))
    problem = _triton_problem(joined_BPE, heads, backend)
    problems = {"triton": problem, "split": None, "reference": None}
    chosen = choose(NAME, backend, problems, joined_BPE)
    if chosen == "triton" and joined_BPE.shape[1] > LONGEST:
        from kernels.attention_joined import triton_streamed

        return triton_streamed.forward(joined_BPE.contiguous(), heads)
    if chosen == "triton":
        return _AttentionJoined.apply(joined_BPE, heads, asked(joined_BPE))
    if chosen == "split":
        return attention(*parts_of(joined_BPE, heads)).transpose(1, 2).flatten(2)
    with torch.autocast(kind, enabled=False):
        return attention_joined_reference(joined_BPE, heads)


def _triton_problem(joined: torch.Tensor, heads: int, backend: str) -> str | None:
    if torch.compiler.is_compiling():
        return "torch.compile does not look into it"
    if not joined.is_cuda and backend != "triton":
        return "CPU"
    if joined.dtype not in DTYPES:
        return f"it takes float16 and bfloat16, not {str(joined.dtype)[6:]}"
    trains = torch.is_grad_enabled() and joined.requires_grad
    longest = LONGEST if trains else LONGEST_STREAMED
    if joined.shape[1] > longest:
        return f"{joined.shape[1]} tokens are more than {longest}"
    width = joined.shape[2] // (3 * heads)
    if width > WIDEST:
        return f"heads of {width} are wider than {WIDEST}"
    if backend != "triton" and torch.cuda.get_device_capability(joined.device)[0] not in FAST:
        return "this GPU's products read registers, which are too few"
    return triton_problem(joined)
