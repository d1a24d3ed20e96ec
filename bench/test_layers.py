"""What our kernels do around a layer's products and after a step, at ViT-B sizes; on a GPU alone.

A CPU runs the definitions, so there is nothing to compare there.
"""

import pytest
import torch

from bench.conftest import Compare
from bench.gradients import agree, with_gradient
from bench.interleaved import Side, ratio
from bench.plan import LENGTHS, Plan
from bench.record import Record
from blip_model.config import BlipConfig, preset
from blip_model.looking import Looking, look
from blip_model.med import MedAttention
from blip_model.momentum import Momentum, online_name
from blip_model.packing import Packing
from blip_model.pretrain import BlipPretrain
from engine.config import TrainSection
from engine.training.optimizer import build_optimizer
from kernels import (
    add_norm,
    attention_joined,
    attention_packed,
    attention_rows,
    ema_,
    linear_gelu,
    mlp,
    normalise,
)


@pytest.fixture
def config(plan: Plan) -> BlipConfig:
    """Sizes of the network; skips where there is no GPU."""
    if plan.device.type != "cuda":
        pytest.skip("a CPU runs the definitions")
    return preset(plan.preset)


def test_linear_gelu(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """fc1 and GELU of all tokens of a batch, the product included."""
    width, rows = config.vision_width, plan.kernel_batch * config.image_tokens
    settings = {"device": plan.device, "dtype": torch.bfloat16}
    leaves = [
        (torch.randn(shape, **settings) * scale).requires_grad_()
        for shape, scale in (((rows, width), 1), ((4 * width, width), 0.02), ((4 * width,), 0.02))
    ]
    upstream = torch.randn(rows, 4 * width, **settings)
    sides = {
        name: with_gradient(lambda b=backend: linear_gelu(*leaves, backend=b), leaves, upstream)
        for name, backend in {"definition": "reference", "ours": "triton"}.items()
    }
    agree(sides, 0.05)
    times = compare_kernels(f"linear_gelu, {rows} rows", sides)
    faster = ratio(times["definition"], times["ours"])
    record.figure(f"kernel_linear_gelu_ratio{plan.suffix}", faster)


def test_mlp(compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig) -> None:
    """Both products of the MLP and the GELU between them, which only the definition keeps."""
    width, rows = config.vision_width, plan.kernel_batch * config.image_tokens
    settings = {"device": plan.device, "dtype": torch.bfloat16}
    shapes = ((rows, width), (4 * width, width), (4 * width,), (width, 4 * width), (width,))
    leaves = [
        (torch.randn(shape, **settings) * (0.02 if number else 1)).requires_grad_()
        for number, shape in enumerate(shapes)
    ]
    upstream = torch.randn(rows, width, **settings)
    sides = {
        name: with_gradient(lambda b=backend: mlp(*leaves, backend=b), leaves, upstream)
        for name, backend in {"definition": "reference", "ours": "triton"}.items()
    }
    agree(sides, 0.05)
    times = compare_kernels(f"mlp, {rows} rows", sides)
    record.figure(f"kernel_mlp_ratio{plan.suffix}", ratio(times["definition"], times["ours"]))


def test_add_norm(compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig) -> None:
    """A float32 stream, a bfloat16 branch, and a norm for products, as under autocast."""
    shape = (plan.kernel_batch * config.image_tokens, config.vision_width)
    residual = torch.randn(shape, device=plan.device).requires_grad_()
    branch = torch.randn(shape, device=plan.device, dtype=torch.bfloat16).requires_grad_()
    weight = torch.ones(shape[1], device=plan.device, requires_grad=True)
    bias = torch.zeros(shape[1], device=plan.device, requires_grad=True)
    leaves, low = [residual, branch, weight, bias], torch.bfloat16
    upstream = torch.randn(shape, device=plan.device), torch.randn_like(branch)
    sides = {
        name: with_gradient(
            lambda b=backend: add_norm(*leaves, 1e-6, norm_dtype=low, backend=b), leaves, upstream
        )
        for name, backend in {"definition": "reference", "ours": "triton"}.items()
    }
    agree(sides, 0.05)
    times = compare_kernels(f"add_norm, {shape[0]} rows", sides)
    record.figure(f"kernel_add_norm_ratio{plan.suffix}", ratio(times["definition"], times["ours"]))


def test_attention_joined(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """A picture's self-attention from the projection's product to what is projected back."""
    settings = {"device": plan.device, "dtype": torch.bfloat16}
    tokens, width = config.image_tokens, config.vision_width
    joined = torch.randn(plan.kernel_batch, tokens, 3 * width, **settings).requires_grad_()
    upstream = torch.randn(plan.kernel_batch, tokens, width, **settings)
    sides = {
        name: with_gradient(
            lambda b=name: attention_joined(joined, config.vision_heads, backend=b),
            [joined],
            upstream,
        )
        for name in ("split", "triton")
    }
    agree(sides, 0.05)
    times = compare_kernels(f"attention_joined, {plan.kernel_batch} rows", sides)
    faster = ratio(times["split"], times["triton"])
    record.figure(f"kernel_attention_joined_ratio{plan.suffix}", faster)


@torch.no_grad()
def test_attention_of_a_larger_picture(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """The same of 384 pixels for those who do not train: captions, scores."""
    tokens, width = (384 // config.patch_size) ** 2 + 1, 3 * config.vision_width
    settings = {"device": plan.device, "dtype": torch.bfloat16}
    joined = torch.randn(plan.kernel_batch // 2, tokens, width, **settings)
    sides = {
        name: lambda b=name: [attention_joined(joined, config.vision_heads, backend=b)]
        for name in ("split", "triton")
    }
    agree(sides, 0.05)
    times = compare_kernels(f"attention_joined, {tokens} tokens", sides)
    faster = ratio(times["split"], times["triton"])
    record.figure(f"kernel_attention_joined_larger_ratio{plan.suffix}", faster)


def test_normalise(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """Bytes of pictures of 384 pixels to what their patches are made of."""
    views = torch.randint(0, 256, (plan.kernel_batch // 2, 3, 384, 384), device=plan.device)
    inputs = (views.to(torch.uint8), *torch.randn(2, 3, device=plan.device), torch.bfloat16)
    names = {"definition": "reference", "ours": "triton"}
    sides = {name: lambda b=by: [normalise(*inputs, backend=b)] for name, by in names.items()}
    agree(sides, 0.01)
    times = compare_kernels(f"normalise, {len(views)} pictures", sides)
    record.figure(f"kernel_normalise_ratio{plan.suffix}", ratio(times["definition"], times["ours"]))


def test_attention_packed(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """Self-attention of captions of 13 tokens in the mean."""
    lengths = torch.tensor(LENGTHS).repeat(plan.kernel_batch // len(LENGTHS))
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().to(plan.device)
    shape = (int(lengths.sum()), config.text_heads, config.text_width // config.text_heads)
    settings = {"device": plan.device, "dtype": torch.bfloat16}
    leaves = [torch.randn(shape, **settings).requires_grad_() for _ in range(3)]
    where, upstream = ((starts, starts), (max(LENGTHS),) * 2), torch.randn(shape, **settings)
    sides = {
        name: with_gradient(
            lambda b=name: attention_packed(*leaves, *where, backend=b), leaves, upstream
        )
        for name in ("padded", "sdpa_flash")
    }
    agree(sides, 0.05)
    times = compare_kernels(f"attention_packed, {shape[0]} tokens", sides)
    faster = ratio(times["padded"], times["sdpa_flash"])
    record.figure(f"kernel_attention_packed_ratio{plan.suffix}", faster)


def test_attention_rows(
    compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig
) -> None:
    """The same with dropout, by our kernel; without it both sides must agree."""
    lengths = torch.tensor(LENGTHS, device=plan.device).repeat(plan.kernel_batch // len(LENGTHS))
    where = (lengths.cumsum(0) - lengths, lengths) * 2
    shape = (int(lengths.sum()), config.text_heads, config.text_width // config.text_heads)
    settings = {"device": plan.device, "dtype": torch.bfloat16}
    leaves = [torch.randn(shape, **settings).requires_grad_() for _ in range(3)]
    upstream, longest = torch.randn(shape, **settings), (max(LENGTHS),) * 2
    exact, dropping = (
        {
            name: with_gradient(
                lambda b=name, d=dropout: attention_rows(
                    *leaves, *where, longest, dropout=d, backend=b
                ),
                leaves,
                upstream,
            )
            for name in ("padded", "triton")
        }
        for dropout in (0.0, 0.1)
    )
    agree(exact, 0.05)
    times = compare_kernels(f"attention_rows, {shape[0]} tokens", dropping)
    faster = ratio(times["padded"], times["triton"])
    record.figure(f"kernel_attention_rows_ratio{plan.suffix}", faster)


def test_looking(compare_kernels: Compare, plan: Plan, record: Record, config: BlipConfig) -> None:
    """Cross-attention of a step's four kinds of texts; without dropout both sides must agree."""
    count, device = plan.kernel_batch, plan.device
    block = MedAttention(config, config.vision_width).to(device)
    places = torch.arange(max(LENGTHS), device=device)
    lengths = torch.tensor(LENGTHS, device=device).repeat(count // len(LENGTHS))
    own, wrong = (Packing.of(places < many[:, None]) for many in (lengths, lengths.roll(1)))
    kinds, others = (own, wrong, own, own), torch.randperm(len(lengths), device=device)
    states = torch.randn(sum(len(kind) for kind in kinds), config.text_width, device=device)
    pictures = torch.randn(len(lengths), config.image_tokens, config.vision_width, device=device)
    leaves = [states.requires_grad_(), pictures.bfloat16().requires_grad_()]
    leaves += [block.self.key.weight, block.self.value.weight]
    upstream = torch.randn_like(states)

    def looks(looking: Looking) -> Side:
        def run() -> torch.Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return look(block, *leaves[:2], looking)[0]

        return with_gradient(run, leaves, upstream)

    ways = {"padded": True, "ours": False}
    sides = {name: looks(Looking.of(kinds, others, padded=pad)) for name, pad in ways.items()}
    block.eval()
    agree(sides, 0.05)
    block.train()
    times = compare_kernels(f"look, {len(states)} tokens", sides)
    record.figure(f"kernel_looking_ratio{plan.suffix}", ratio(times["padded"], times["ours"]))


def test_adamw_ema(compare: Compare, plan: Plan, record: Record, config: BlipConfig) -> None:
    """The end of a step: clipping, AdamW and the momentum encoders."""
    model = BlipPretrain(config).to(plan.device)
    momentum = Momentum(model, 0).to(plan.device)
    parameters, named = list(model.parameters()), dict(model.named_parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    followers = {named[online_name(name)]: p for name, p in momentum.named_parameters()}
    apart, together = (build_optimizer(parameters, TrainSection(), 1e-9) for _ in range(2))
    together.follow(followers, 0.995)
    online = [parameter.detach() for parameter in followers]

    def one_after_the_other() -> None:
        apart.step()
        ema_(list(followers.values()), online, 0.995)

    sides = {"fused AdamW, then ema_": one_after_the_other, "ours": together.step}
    times = compare(f"adamw_ema_, {len(parameters)} tensors", sides)
    faster = ratio(times["fused AdamW, then ema_"], times["ours"])
    record.figure(f"kernel_adamw_ema_ratio{plan.suffix}", faster)
