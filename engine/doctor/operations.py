"""Which backends of the kernels run here: each is called by name on a few numbers, and answers.

A backend that runs is compared with the definition, so that one which answers nonsense is found.
"""

from collections.abc import Callable
from functools import partial

import torch

from kernels import (
    Places,
    adamw_ema_,
    add_norm,
    attention,
    attention_joined,
    attention_packed,
    attention_pictures,
    attention_rows,
    attention_step_,
    beam_candidates,
    by_picture,
    draw_hard_negatives,
    itc_loss,
    linear,
    linear_gelu,
    linear_rows,
    linears,
    lm_loss,
    mlp,
    nucleus_draw,
)
from kernels.attention import op, packed

# Rows, heads, tokens and channels; packed sequences of 5 and 11 tokens.
ROWS, HEADS, TOKENS, WIDTH = 2, 2, 16, 64
LENGTHS = (5, 11)
# bf16 keeps 8 bits; what comes out are means of values around 1.
WRONG = 0.1
Probe = Callable[[], None]


def attention_probes() -> dict[str, Probe]:
    """By name of the backend, dense and packed: raises what hinders it."""
    dense = ("math", "sdpa", *op.FORCED)
    probes: dict[str, Probe] = {name: partial(_dense, name) for name in dense}
    names = ("padded", *packed.FORCED)
    return probes | {f"packed {name}": partial(_packed, name) for name in names}


def triton_probes() -> dict[str, Probe]:
    """The Triton kernels by the name of their operation: forward, and backward where there is."""
    kernels = {
        "add_norm": _add_norm,
        "norm made again": _norm_again,
        "linears": _linears,
        "linear_gelu": _linear_gelu,
        "mlp": _mlp,
        "mlp by rows": _mlp_rows,
        "attention_joined": _attention_joined,
        "linear_rows": _linear_rows,
        "attention_rows": _attention_rows,
        "attention_pictures": _attention_pictures,
        "attention of few queries": _attention_few,
        "attention_step_": _attention_step,
        "itc_loss": _itc_loss,
        "lm_loss": _lm_loss,
        "draw_hard_negatives": _draw,
        "nucleus_draw": _nucleus_draw,
        "beam_candidates": _beam_candidates,
        "adamw_ema_": _adamw,
    }
    return {name: _without_answer(kernel) for name, kernel in kernels.items()}


def _without_answer(kernel: Callable[[str], torch.Tensor]) -> Probe:
    def probe() -> None:
        _compare(kernel("triton"), kernel(PLAIN.get(kernel, "reference")))

    return probe


def _given(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Normal numbers where runs compute, in the dtype that they compute in."""
    on_gpu = torch.cuda.is_available()
    kind = torch.bfloat16 if on_gpu else torch.float32
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    return [tensor.to("cuda" if on_gpu else "cpu", kind) for tensor in made]


def _compare(ours: torch.Tensor, plain: torch.Tensor) -> None:
    """Raise where a backend is wrong, not merely rounded."""
    error = (ours.float() - plain.float()).abs().max().item()
    if not error <= WRONG * max(1.0, plain.float().abs().max().item()):
        raise RuntimeError(f"its answer is wrong by {error:.3g}")


def _dense(name: str) -> None:
    inputs = _given(*[(ROWS, HEADS, TOKENS, WIDTH)] * 3)
    with torch.no_grad():
        _compare(attention(*inputs, backend=name), attention(*inputs, backend="math"))


def _packed(name: str) -> None:
    inputs = _given(*[(sum(LENGTHS), HEADS, WIDTH)] * 3)
    ends = [0, LENGTHS[0], sum(LENGTHS)]
    starts = torch.tensor(ends, dtype=torch.int32, device=inputs[0].device)
    rest = ((starts, starts), (max(LENGTHS),) * 2)
    with torch.no_grad():
        plain = attention_packed(*inputs, *rest, backend="reference")
        _compare(attention_packed(*inputs, *rest, backend=name), plain)


def _leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [tensor.float().requires_grad_() for tensor in _given(*shapes)]


def _flat(*tensors: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten().float() for tensor in tensors])


def _add_norm(backend: str) -> torch.Tensor:
    inputs = _leaves((4, WIDTH), (4, WIDTH), (WIDTH,), (WIDTH,))
    total, normed = add_norm(*inputs, 1e-5, backend=backend)
    (total + normed).sum().backward()
    return _flat(normed, inputs[0].grad)


def _norm_again(backend: str) -> torch.Tensor:
    """By the product that alone reads it, for the gradient of its weight."""
    inputs = _leaves((4, WIDTH), (4, WIDTH), (WIDTH,), (WIDTH,), (WIDTH, WIDTH), (WIDTH,))
    _, normed = add_norm(*inputs[:4], 1e-5, read_once=True, backend=backend)
    linear(normed, *inputs[4:], backend=backend).sum().backward()
    return _flat(inputs[4].grad)


def _two_maps() -> list[torch.Tensor]:
    """Rows, and weight and bias of each, so that all gradients are of one size."""
    rows, *maps = _leaves((4, WIDTH), *[(WIDTH, WIDTH), (WIDTH,)] * 2)
    for weight in maps[::2]:
        weight.data /= WIDTH**0.5
    return [rows, *maps]


def _linears(backend: str) -> torch.Tensor:
    x, *maps = _two_maps()
    products = linears(x, maps[::2], maps[1::2], backend=backend)
    torch.stack(products).square().sum().backward()
    return _flat(*products, x.grad, *(tensor.grad for tensor in maps))


def _linear_gelu(backend: str) -> torch.Tensor:
    inputs = _leaves((4, WIDTH), (WIDTH, WIDTH), (WIDTH,))
    active = linear_gelu(*inputs, backend=backend)
    active.sum().backward()
    return _flat(active, inputs[0].grad)


def _mlp(backend: str) -> torch.Tensor:
    x, *maps = _two_maps()
    mlp(x, *maps, backend=backend).square().sum().backward()
    return _flat(x.grad, *(tensor.grad for tensor in maps))


def _mlp_rows(backend: str) -> torch.Tensor:
    x, weight, bias = _low(*_given((4, WIDTH), (WIDTH, WIDTH), (WIDTH,)))
    chosen = "rows" if backend == "triton" else backend
    return mlp(x, *(weight / 8, bias) * 2, backend=chosen)


def _attention_joined(backend: str) -> torch.Tensor:
    (joined,) = _leaves((ROWS, TOKENS, 3 * HEADS * WIDTH))
    # The kernel takes no float32.
    seen = attention_joined(joined.half(), HEADS, backend=backend)
    seen.float().square().sum().backward()
    return _flat(seen, joined.grad)


def _attention_rows(backend: str) -> torch.Tensor:
    inputs = _leaves(*[(sum(LENGTHS), HEADS, WIDTH)] * 3)
    lengths = torch.tensor(LENGTHS, device=inputs[0].device)
    rows = (lengths.cumsum(0) - lengths, lengths)
    seen = attention_rows(*inputs, *rows, *rows, (max(LENGTHS),) * 2, backend=backend)
    seen.square().sum().backward()
    return _flat(seen, *(tensor.grad for tensor in inputs))


def _attention_pictures(backend: str) -> torch.Tensor:
    pictures = (ROWS, TOKENS, HEADS, WIDTH)
    inputs = _leaves((sum(LENGTHS), HEADS, WIDTH), pictures, pictures)
    picture = torch.arange(sum(LENGTHS), device=inputs[0].device) % (ROWS + 1)
    seen = attention_pictures(*inputs, *by_picture(picture, ROWS), backend=backend)
    seen.square().sum().backward()
    return _flat(seen, *(tensor.grad for tensor in inputs))


def _itc_loss(backend: str) -> torch.Tensor:
    query, momentum, keys, queue = (
        torch.nn.functional.normalize(tensor.detach(), dim=-1)
        for tensor in _leaves((8, WIDTH), (8, WIDTH), (8, WIDTH), (24, WIDTH))
    )
    query.requires_grad_()
    loss = itc_loss(query, momentum, keys, queue, query.new_tensor(0.5), 0.4, backend=backend)
    loss.backward()
    return _flat(loss, query.grad)


def _attention_step(backend: str) -> torch.Tensor:
    new, caches = _given(*[(ROWS, HEADS, WIDTH)] * 3), _given(*[(ROWS, HEADS, TOKENS, WIDTH)] * 2)
    places = Places(torch.tensor([3, 7], device=new[0].device))
    return _flat(attention_step_(*new, *caches, places, backend=backend), *caches)


def _low(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """In 16 bits; float16 where there is no GPU, as the interpreter multiplies no bfloat16."""
    return [tensor if tensor.is_cuda else tensor.half() for tensor in tensors]


def _attention_few(backend: str) -> torch.Tensor:
    inputs = _low(*_given(*[(ROWS, HEADS, TOKENS, WIDTH)] * 3))
    return attention(*inputs, backend="few" if backend == "triton" else "math")


def _linear_rows(backend: str) -> torch.Tensor:
    x, weight, bias = _low(*_given((4, WIDTH), (WIDTH, WIDTH), (WIDTH,)))
    return _flat(*linear_rows(x, *[(weight / 8, bias)] * 2, gelu=True, backend=backend))


def _lm_loss(backend: str) -> torch.Tensor:
    states, words, bias = _leaves((8, WIDTH), (100, WIDTH), (100,))
    targets = torch.arange(8, device=states.device)
    weights = torch.full((8,), 1 / 8, device=states.device)
    loss = lm_loss(states / 8, words, bias, targets, weights, backend=backend)
    loss.backward()
    return _flat(loss, states.grad)


def _draw(backend: str) -> torch.Tensor:
    """Each row has one key that is like it, of a weight beside which no other is drawn: the
    kernel draws as the definition does in distribution alone."""
    query = _leaves((8, WIDTH))[0].detach()
    settings = {"seed": 1, "floor": 0.0, "backend": backend}
    return draw_hard_negatives(query, query.roll(1, 0), query.new_tensor(1.0), **settings).float()


def _nucleus_draw(backend: str) -> torch.Tensor:
    """Numbers in the middle of each token's share: no sum's rounding decides."""
    logits = torch.tensor([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]], device=_given((1,))[0].device)
    uniforms = logits.new_tensor([0.1, 0.9], dtype=torch.float64)
    return nucleus_draw(logits, uniforms, top_p=0.8, backend=backend).float()


def _beam_candidates(backend: str) -> torch.Tensor:
    (logits,) = _leaves((4, WIDTH))
    running, ids = logits.new_zeros(2, 2), torch.zeros(4, 3, dtype=torch.int64).to(logits.device)
    settings = {"end": 1, "min_length": 5, "penalty": 1.1, "backend": backend}
    return _flat(*beam_candidates(logits.detach(), running, ids, ids[:, 0] + 2, **settings))


def _adamw(backend: str) -> torch.Tensor:
    weight, gradient = (tensor.detach() for tensor in _leaves((WIDTH,), (WIDTH,)))
    moments = [torch.zeros_like(weight) for _ in range(2)]
    adamw_ema_(
        [weight],
        [gradient],
        *([moment] for moment in moments),
        weight.new_tensor(1.0),
        learning_rate=0.1,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.05,
        backend=backend,
    )
    return weight


PLAIN = {_draw: "torch"}
