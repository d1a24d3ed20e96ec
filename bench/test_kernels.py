"""Operations at ViT-B sizes, forward and backward, against their definitions and other people's.

Before anything is timed, all sides of a comparison must give the same numbers.
"""

import importlib.util
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from bench import peers
from bench.conftest import Compare
from bench.gradients import agree, with_gradient
from bench.interleaved import Side, ratio
from bench.machine import has_bf16
from bench.plan import Plan
from bench.record import Record
from blip_model.config import BlipConfig, preset
from blip_model.momentum import Momentum
from blip_model.pretrain import BlipPretrain
from kernels import attention, draw_hard_negatives, ema_, itc_loss, lm_loss, nucleus_draw
from kernels.attention.op import FORCED

Tensors = dict[str, torch.Tensor]
ALPHA = 0.4


@pytest.fixture
def config(plan: Plan) -> BlipConfig:
    """Sizes of the network."""
    return preset(plan.preset)


def unit(rows: int, width: int, device: torch.device) -> torch.Tensor:
    """Random unit vectors."""
    return F.normalize(torch.randn(rows, width, device=device), dim=1)


def _contrasted(plan: Plan, config: BlipConfig) -> tuple[torch.Tensor, ...]:
    """Queries, momentum queries, keys, queue and temperature."""
    rows, width, device = plan.kernel_batch, config.embed_dim, plan.device
    query = unit(rows, width, device).requires_grad_()
    temperature = torch.tensor(0.07, device=device, requires_grad=True)
    queue = unit(plan.queue_size, width, device).T.contiguous().T
    return query, unit(rows, width, device), unit(rows, width, device), queue, temperature


def test_itc_loss(compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig) -> None:
    rows, device, inputs = plan.kernel_batch, plan.device, _contrasted(plan, config)
    query, temperature = inputs[0], inputs[-1]

    def by(backend: str) -> Side:
        return with_gradient(
            lambda: itc_loss(*inputs, ALPHA, backend=backend), [query, temperature], None
        )

    chunk = max(1, rows // 4)
    chunked = with_gradient(
        lambda: peers.chunked_contrast(*inputs, ALPHA, chunk), [query, temperature], None
    )
    sides = {"definition": by("reference"), "ours": by("auto"), "chunked": chunked}
    if device.type == "cuda":
        sides |= {"torch": by("torch"), "gemm": by("triton_gemm")}
        compiled = torch.compile(lambda: itc_loss(*inputs, ALPHA, backend="reference"))
        sides["definition, compiled"] = with_gradient(compiled, [query, temperature], None)
    agree(sides, 1e-4)
    times = compare_kernels(f"itc_loss, {rows} rows, queue {plan.queue_size}", sides)
    record.figure(f"kernel_itc_loss_ratio{plan.suffix}", ratio(times["definition"], times["ours"]))
    record.figure(
        f"kernel_itc_loss_ratio_chunked{plan.suffix}", ratio(times["chunked"], times["ours"])
    )
    if device.type == "cuda":
        faster = ratio(times["definition, compiled"], times["ours"])
        record.figure(f"kernel_itc_loss_ratio_compiled{plan.suffix}", faster)
        faster = ratio(times["gemm"], times["ours"])
        record.figure(f"kernel_itc_loss_ratio_gemm{plan.suffix}", faster)


def test_itc_loss_in_bf16(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """Both designs and the original's lines under autocast, as training on a GPU runs them."""
    if plan.device.type != "cuda":
        pytest.skip("a CPU computes the contrast in float32")
    inputs = _contrasted(plan, config)
    query, temperature = inputs[0], inputs[-1]

    def by(contrast: Callable[..., torch.Tensor], **settings: str) -> Side:
        def loss() -> torch.Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return contrast(*inputs, ALPHA, **settings)

        return with_gradient(loss, [query, temperature], None)

    sides = {
        "original": by(peers.materialised_contrast),
        "original, compiled": by(torch.compile(peers.materialised_contrast)),
        "ours": by(itc_loss, backend="triton"),
        "ours, gemm": by(itc_loss, backend="triton_gemm"),
    }
    # The original's scores are rounded to bfloat16.
    agree(sides, 0.1)
    times = compare_kernels(
        f"itc_loss, {len(query)} rows, queue {plan.queue_size}, bfloat16", sides
    )
    name, ours = "kernel_itc_loss_bf16_ratio", times["ours"]
    record.figure(f"{name}{plan.suffix}", ratio(times["original"], ours))
    record.figure(f"{name}_compiled{plan.suffix}", ratio(times["original, compiled"], ours))
    record.figure(f"{name}_gemm{plan.suffix}", ratio(times["ours, gemm"], ours))


def test_hard_negatives(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    rows, device = plan.kernel_batch, plan.device
    query, keys = unit(rows, config.embed_dim, device), unit(rows, config.embed_dim, device)
    temperature, counter = torch.tensor(0.07, device=device), iter(range(1 << 30))
    sides: dict[str, Side] = {
        "original": lambda: peers.looped_negatives(query, keys, temperature),
        "ours": lambda: draw_hard_negatives(query, keys, temperature, seed=next(counter)),
    }
    for draw in sides.values():
        # As random as they are: another row of the batch each.
        drawn = draw()
        assert ((drawn >= 0) & (drawn < rows) & (drawn != torch.arange(rows, device=device))).all()
    if device.type == "cuda":
        forced = {"seed": 1, "backend": "torch"}
        sides["torch"] = lambda: draw_hard_negatives(query, keys, temperature, **forced)
    times = compare_kernels(f"hard_negatives, {rows} rows", sides)
    faster = ratio(times["original"], times["ours"])
    record.figure(f"kernel_hard_negatives_ratio{plan.suffix}", faster)


def test_nucleus_draw(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """A token of every caption of a batch; a CPU has the definition alone, and nothing to tell."""
    if plan.device.type != "cuda":
        pytest.skip("needs an NVIDIA GPU")
    rows = plan.caption_batch
    logits = torch.randn(rows, config.vocab_size, device=plan.device) * 3
    numbers = torch.rand(rows, dtype=torch.float64, device=plan.device)
    sides = {
        name: lambda b=backend: nucleus_draw(logits, numbers, top_p=0.9, backend=b)
        for name, backend in {"definition": "reference", "ours": "triton"}.items()
    }
    # Sums that round differently move a number over an edge now and then.
    assert (sides["ours"]() == sides["definition"]()).float().mean() > 0.9
    plain, ours = compare_kernels(f"nucleus_draw, {rows} rows", sides).values()
    record.figure(f"kernel_nucleus_draw_ratio{plan.suffix}", ratio(plain, ours))


def test_states_of_negatives(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """What follows the draw: the original's slices cost B^2 in the backward pass."""
    rows, shape = plan.kernel_batch, (config.image_tokens, config.vision_width)
    states = torch.randn(rows, *shape, device=plan.device, requires_grad=True)
    upstream = torch.randn_like(states)
    numbers = (torch.arange(rows, device=plan.device) + 1) % rows
    # The original has them on its host by then.
    listed = numbers.tolist()
    sides = {
        "original": with_gradient(lambda: peers.stacked(states, listed), [states], upstream),
        "ours": with_gradient(lambda: states.index_select(0, numbers), [states], upstream),
    }
    agree(sides, 1e-6)
    times = compare_kernels(f"states of negatives, {rows} rows", sides)
    faster = ratio(times["original"], times["ours"])
    record.figure(f"kernel_negative_states_ratio{plan.suffix}", faster)


@pytest.mark.parametrize("what", ["vision", "cross"])
def test_attention(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig, what: str
) -> None:
    rows = min(plan.kernel_batch, 64)
    heads = config.vision_heads if what == "vision" else config.text_heads
    width = (config.vision_width if what == "vision" else config.text_width) // heads
    queries = config.image_tokens if what == "vision" else 39
    dtype = torch.bfloat16 if has_bf16(plan.device) else torch.float32
    leaves = [
        torch.randn(rows, heads, length, width, device=plan.device, dtype=dtype).requires_grad_()
        for length in (queries, config.image_tokens, config.image_tokens)
    ]
    upstream = torch.randn_like(leaves[0])
    sides = {
        name: with_gradient(lambda b=backend: attention(*leaves, backend=b), leaves, upstream)
        for name, backend in {"definition": "math", "sdpa": "sdpa", "ours": "auto"}.items()
    }
    agree(sides, 0.05 if dtype == torch.bfloat16 else 1e-4)
    times = compare_kernels(f"attention, {what}, {rows} rows, {str(dtype)[6:]}", sides)
    name = f"kernel_attention_{what}_ratio"
    record.figure(f"{name}{plan.suffix}", ratio(times["definition"], times["ours"]))
    record.figure(f"{name}_sdpa{plan.suffix}", ratio(times["sdpa"], times["ours"]))


def test_fused_attentions(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """Every attention kernel that can be had, one by one at 197 tokens, forward and backward."""
    if plan.device.type != "cuda":
        pytest.skip("a CPU has one fused attention, compared above")
    shape = (plan.kernel_batch, config.vision_heads, config.image_tokens)
    leaves = [
        torch.randn(*shape, 64, device=plan.device, dtype=torch.bfloat16).requires_grad_()
        for _ in range(3)
    ]
    upstream = torch.randn_like(leaves[0])
    sides = {}
    for name in ("sdpa", *FORCED):
        side = with_gradient(lambda b=name: attention(*leaves, backend=b), leaves, upstream)
        try:
            side()
        except Exception as error:  # noqa: BLE001 - other people's packages raise anything
            record.note(f"not timed: {name}: {error}")
        else:
            sides[name] = side
    agree(sides, 0.05)
    times = compare_kernels(f"fused attention, {plan.kernel_batch} rows, bfloat16", sides)
    # Two products forward, five back.
    operations = 7 * 2 * leaves[0].numel() * config.image_tokens
    for name, seconds in times.items():
        work = ratio([operations] * plan.rounds, seconds)
        record.figure(f"attention_flops_{name}{plan.suffix}", work)


def test_ema(compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig) -> None:
    with torch.device("meta"):
        shapes = [p.shape for p in Momentum(BlipPretrain(config), 0).parameters()]
    targets = [torch.zeros(shape, device=plan.device) for shape in shapes]
    sources = [torch.ones(shape, device=plan.device) for shape in shapes]
    for update in (peers.looped_ema, ema_):
        few = [torch.zeros_like(target) for target in targets[:9]]
        update(few, sources[:9], 0.995)
        assert all(torch.allclose(one, torch.full_like(one, 0.005)) for one in few)

    sides: dict[str, Side] = {
        "original": lambda: peers.repeated_ema(targets, sources, 0.995),
        "ours": lambda: ema_(targets, sources, 0.995),
    }
    times = compare_kernels(f"ema, {len(shapes)} tensors", sides)
    record.figure(f"kernel_ema_ratio{plan.suffix}", ratio(times["original"], times["ours"]))


def test_lm_loss(compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig) -> None:
    """What captioning ends in: 12 predicted tokens a row."""
    leaves, labels, dtype = _words(plan, config)
    weights = torch.full((len(labels),), 1 / len(labels), device=plan.device)

    def by(backend: str) -> Side:
        return with_gradient(
            lambda: lm_loss(*leaves, labels, weights, label_smoothing=0.1, backend=backend),
            leaves,
            None,
        )

    sides = {"definition": by("reference"), "ours": by("auto"), "torch": by("torch")}
    agree(sides, 0.05 if dtype == torch.bfloat16 else 1e-4)
    times = compare_kernels(f"lm_loss, {len(labels)} tokens, {str(dtype)[6:]}", sides)
    record.figure(f"kernel_lm_loss_ratio{plan.suffix}", ratio(times["definition"], times["ours"]))


@pytest.mark.parametrize("peer", peers.LM_LOSSES)
def test_lm_loss_of_others(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig, peer: str
) -> None:
    """The same by other people's kernels, each alone so that one that fails hides no other."""
    module, theirs, tolerance = peers.LM_LOSSES[peer]
    if plan.device.type != "cuda":
        record.note(f"{module}'s fused captioning loss needs a GPU: not compared here")
        pytest.skip(f"{module} needs a GPU")
    if importlib.util.find_spec(module) is None:
        record.note(f"{module} is not installed: its fused captioning loss is not compared")
        pytest.skip(f"{module} is not installed")
    leaves, labels, _ = _words(plan, config)
    weights = torch.full((len(labels),), 1 / len(labels), device=plan.device)
    losses = {"ours": lambda: lm_loss(*leaves, labels, weights, label_smoothing=0.1)}
    losses[peer] = lambda: theirs(*leaves, labels)
    sides = {name: with_gradient(loss, leaves, None) for name, loss in losses.items()}
    agree(sides, tolerance)
    times = compare_kernels(f"lm_loss, {len(labels)} tokens, {peer}", sides)
    record.figure(f"kernel_lm_loss_ratio_{peer}{plan.suffix}", ratio(times[peer], times["ours"]))


def _words(plan: Plan, config: BlipConfig) -> tuple[list[torch.Tensor], torch.Tensor, torch.dtype]:
    """States, words and bias, the tokens to predict, and the dtype: bf16 on a GPU."""
    tokens, width, vocabulary = 12 * plan.kernel_batch, config.text_width, config.vocab_size
    dtype = torch.bfloat16 if plan.device.type == "cuda" else torch.float32
    settings = {"device": plan.device, "dtype": dtype}
    states = torch.randn(tokens, width, **settings).requires_grad_()
    words = (torch.randn(vocabulary, width, **settings) * 0.02).requires_grad_()
    bias = torch.zeros(vocabulary, **settings).requires_grad_()
    return [states, words, bias], torch.randint(vocabulary, (tokens,), device=plan.device), dtype
