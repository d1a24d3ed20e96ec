"""Momentum-distilled image-text contrastive loss over [batch | queue]."""

import torch

from kernels.backend import choose, triton_problem
from kernels.itc_loss.one_pass import OnePass, loss_and_gradients, opaque
from kernels.itc_loss.reference import itc_loss_reference


def itc_loss(
    query_BE: torch.Tensor,
    momentum_query_BE: torch.Tensor,
    keys_BE: torch.Tensor,
    queue_QE: torch.Tensor,
    temperature: torch.Tensor,
    alpha: torch.Tensor | float,
    *,
    query_ids: torch.Tensor | None = None,
    key_ids: torch.Tensor | None = None,
    queue_ids: torch.Tensor | None = None,
    group_size: int | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """One direction of the contrastive loss, mean over rows (arXiv:2107.07651, eq. 6).

    Targets mix the momentum queries' softmax (weight alpha) with the positives. Only the queries
    and the temperature get gradients; the soft targets' temperature does not, as in the original.

    Args:
        query_BE: [B, E] online features of one modality.
        momentum_query_BE: [B, E] momentum features of the same samples.
        keys_BE: [B, E] momentum features of the other modality; row i's positive is key i.
        queue_QE: [Q, E] older keys, any strides and floating dtype; Q may be 0.
        temperature: 0-dim, > 0.
        alpha: weight of the soft targets, in [0, 1].
        query_ids: [B] int64; with ids every key and queue entry of the same id is a positive.
        key_ids: [B] int64.
        queue_ids: [Q] int64.
        group_size: a row sees in-batch keys of its own group of so many rows only, and the whole
            queue; None means the whole batch.
        backend: `triton` (GPU), `triton_gemm` (GPU, the library's products: the faster one where
            they are float32), `torch` (streaming), `reference` (materialised) or `auto`. Under
            autocast the first two take the products' operands in its dtype, as PyTorch's own
            would; sums, scores and gradients stay float32.

    Returns:
        The loss, 0-dim float32.

    Raises:
        ValueError: shapes, dtypes, devices or ids that do not fit; an empty batch.
        RuntimeError: a forced backend that cannot run here.
    """
    features, ids = (query_BE, momentum_query_BE, keys_BE), (query_ids, key_ids, queue_ids)
    _check_shapes(*features, queue_QE, temperature)
    _check_kinds(*features, queue_QE, temperature, ids)
    group = group_size or len(query_BE)
    if len(query_BE) % group:
        raise ValueError(f"itc_loss: {len(query_BE)} rows are not whole groups of {group}")
    device, dtype = query_BE.device.type, query_BE.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    triton = triton_problem(query_BE, dtype) if backend != "auto" or query_BE.is_cuda else "CPU"
    problems = {"triton": triton, "torch": None, "reference": None, "triton_gemm": triton}
    if dtype != torch.bfloat16:
        # No tensor cores multiply whole float32 numbers: the library's products are faster.
        problems = {"triton_gemm": triton} | problems
    chosen = choose("itc_loss", backend, problems, query_BE)
    with torch.autocast(device, enabled=False):
        rest = (momentum_query_BE, keys_BE, queue_QE)
        if chosen == "reference":
            return itc_loss_reference(query_BE, *rest, temperature, alpha, *ids, group)
        if torch.compiler.is_compiling():
            if not isinstance(alpha, torch.Tensor):
                alpha = query_BE.new_full((), alpha, dtype=torch.float64)
            return opaque(query_BE, temperature, *rest, alpha, *ids, group, chosen, dtype)[0]
        one_pass = loss_and_gradients(chosen, dtype)
        return OnePass.apply(query_BE, temperature, one_pass, *rest, alpha, *ids, group)


def _check_shapes(
    query: torch.Tensor,
    momentum_query: torch.Tensor,
    keys: torch.Tensor,
    queue: torch.Tensor,
    temperature: torch.Tensor,
) -> None:
    if query.ndim != 2 or not len(query):
        raise ValueError(f"itc_loss: queries {tuple(query.shape)} must be [B, E] with B > 0")
    if momentum_query.shape != query.shape or keys.shape != query.shape:
        raise ValueError(
            f"itc_loss: momentum queries {tuple(momentum_query.shape)} and keys "
            f"{tuple(keys.shape)} must have the queries' shape {tuple(query.shape)}"
        )
    if queue.ndim != 2 or queue.shape[1] != query.shape[1]:
        raise ValueError(f"itc_loss: queue {tuple(queue.shape)} must be [Q, {query.shape[1]}]")
    if temperature.ndim:
        raise ValueError(f"itc_loss: temperature {tuple(temperature.shape)} must be 0-dim")


def _check_kinds(
    query: torch.Tensor,
    momentum_query: torch.Tensor,
    keys: torch.Tensor,
    queue: torch.Tensor,
    temperature: torch.Tensor,
    ids: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None],
) -> None:
    """Of dtypes, devices and ids."""
    given = [i for i in ids if i is not None]
    if len(given) not in (0, 3):
        raise ValueError("itc_loss: give query_ids, key_ids and queue_ids together, or none")
    if given and [i.shape for i in given] != [query.shape[:1], keys.shape[:1], queue.shape[:1]]:
        shapes = ", ".join(str(tuple(i.shape)) for i in given)
        raise ValueError(f"itc_loss: ids of shapes {shapes} do not fit the keys")
    if any(i.dtype != torch.int64 for i in given):
        raise ValueError(
            f"itc_loss: ids must be int64, not {', '.join(str(i.dtype) for i in given)}"
        )
    dtypes = {tensor.dtype for tensor in (query, momentum_query, keys)}
    floating = all(t.is_floating_point() for t in (query, queue, temperature))
    if len(dtypes) > 1 or not floating:
        names = ", ".join(sorted(str(t.dtype) for t in (query, momentum_query, keys, queue)))
        raise ValueError(f"itc_loss: inputs of {names}: features need one floating dtype")
    tensors = (query, momentum_query, keys, queue, temperature, *given)
    devices = {str(tensor.device) for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(f"itc_loss: inputs on different devices: {', '.join(sorted(devices))}")
