"""What a GPU can reach in the pieces that decide: products, contrast, decoding of captions, JPEGs.

The six first measurements of a new GPU; attention and the step at batch 64 are in their suites.
"""

import statistics

import pytest
import torch
import torch.nn.functional as F

from bench.captioning import MAX_LENGTH, PROMPT
from bench.conftest import Compare
from bench.interleaved import Side, ratio
from bench.plan import Plan
from bench.record import Record
from bench.test_data import photo
from bench.test_kernels import ALPHA, unit
from blip_model.caption import BlipCaption
from blip_model.config import preset
from blip_model.generate import nucleus
from blip_model.stored_products import store_products
from engine.data.augment import Augmentation
from engine.data.counter import Draws
from engine.data.decoders import ON_DEVICE, maker_of
from engine.data.device_augment import augmented
from engine.data.planned_view import PlannedViews
from engine.data.planned_view import plan as planned
from kernels import itc_loss

PHOTOS, MOST_PIXELS = 64, 1 << 26
BEFORE = 8


@pytest.fixture(autouse=True)
def needs_a_gpu(plan: Plan, record: Record) -> None:
    if plan.device.type != "cuda":
        record.note("anchors are what a GPU can reach: not measured on a CPU")
        pytest.skip("anchors are of a GPU")


@pytest.mark.parametrize("what", ["forward", "by_input", "by_weight"])
def test_products(compare: Compare, plan: Plan, record: Record, what: str) -> None:
    """Those of the image encoder, forward and both ways back."""
    config = preset(plan.preset)
    rows, width = plan.peer_batch * config.image_tokens, config.vision_width
    shapes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
    bf16 = {"device": plan.device, "dtype": torch.bfloat16}
    sides: dict[str, Side] = {}
    for taken, given in shapes:
        x, y = torch.randn(rows, taken, **bf16), torch.randn(rows, given, **bf16)
        weight = torch.randn(given, taken, **bf16)
        pair = {"forward": (x, weight.T), "by_input": (y, weight), "by_weight": (y.T, x)}[what]
        sides[f"{taken} x {given}"] = lambda pair=pair: pair[0] @ pair[1]
    times = compare(f"products {what}, {rows} rows, bfloat16", sides)
    operations = 2 * rows * sum(taken * given for taken, given in shapes)
    together = [sum(one) for one in zip(*times.values(), strict=True)]
    record.figure(f"gemm_{what}{plan.suffix}", ratio([operations] * plan.rounds, together))


@pytest.mark.parametrize("rows", [128, 512])
def test_contrast_as_attention(compare: Compare, plan: Plan, record: Record, rows: int) -> None:
    """One direction of the loss is attention with values that are the keys: by a library's."""
    width, device = preset(plan.preset).embed_dim, plan.device
    queue = unit(plan.queue_size, width, device).T.contiguous().T
    inputs = tuple(unit(rows, width, device) for _ in range(3))
    temperature = torch.tensor(0.07, device=device)
    low = [tensor.to(torch.bfloat16)[None, None] for tensor in (*inputs, queue)]
    keys = torch.cat([low[2], low[3]], 2)

    def as_attention() -> torch.Tensor:
        both = torch.cat(low[:2], 2)
        return F.scaled_dot_product_attention(both, keys, keys, scale=1 / 0.07)

    def by(backend: str, dtype: torch.dtype) -> Side:
        def loss() -> torch.Tensor:
            with torch.autocast("cuda", dtype, enabled=dtype == torch.bfloat16):
                return itc_loss(*inputs, queue, temperature, ALPHA, backend=backend)

        return loss

    sides: dict[str, Side] = {
        "definition, float32": by("reference", torch.float32),
        "attention, bfloat16": as_attention,
        "ours, float32": by("triton", torch.float32),
        "ours, bfloat16": by("triton", torch.bfloat16),
        "ours, library's products": by("triton_gemm", torch.bfloat16),
    }
    compare(f"contrast forward, {rows} rows, queue {plan.queue_size}", sides)


def test_a_step_of_decoding(compare: Compare, plan: Plan, record: Record) -> None:
    """A token of 512 captions at once, sampled: what it takes after the pictures were encoded."""
    config = preset(plan.preset, **({"image_size": 384} if plan.preset == "base" else {}))
    model = BlipCaption(config).to(plan.device).eval()
    store_products(model, torch.bfloat16)
    shape = (plan.kernel_batch, config.image_tokens, config.vision_width)
    states = torch.randn(shape, device=plan.device, dtype=torch.bfloat16)
    start = [config.bos_token_id, *PROMPT]
    ids = torch.tensor([start] * len(states), device=plan.device)

    def until(length: int) -> Side:
        @torch.no_grad()
        def caption() -> torch.Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                lengths = {"max_length": length, "min_length": length}
                return nucleus(model, states, ids, repetition_penalty=1.1, **lengths)

        return caption

    sides = {"to the end": until(MAX_LENGTH), "not so far": until(MAX_LENGTH - BEFORE)}
    times = compare(f"decoding, {len(states)} captions, {shape[1]} states", sides)
    more = [a - b for a, b in zip(times["to the end"], times["not so far"], strict=True)]
    record.figure(f"decode_step_seconds{plan.suffix}", statistics.median(more) / BEFORE)


@pytest.mark.parametrize("decoder", ON_DEVICE)
def test_pictures_on_the_device(compare: Compare, plan: Plan, record: Record, decoder: str) -> None:
    """JPEGs of 500 x 375 to augmented views, by nvJPEG through DALI and through torchvision."""
    name, ours = ON_DEVICE[decoder].name, "" if decoder == "dali" else f"_{decoder}"
    if not ON_DEVICE[decoder].is_installed():
        record.note(f"{name} is not installed: JPEGs are not decoded on the GPU by it")
        pytest.skip(f"{name} is not installed")
    augmentation = Augmentation(preset(plan.preset).image_size, 0.2, True, True)
    contents = [photo(number, 500, 375) for number in range(PHOTOS)]
    plans = [
        planned(contents[number % PHOTOS], MOST_PIXELS, augmentation, Draws(number))
        for number in range(plan.peer_batch)
    ]
    batch = PlannedViews.of(plans)
    maker = maker_of(decoder, plan.device, len(plans), 8, augmentation.size)
    # One batch ahead, as in a run.
    maker.start(batch)

    def views() -> torch.Tensor:
        maker.start(batch)
        return augmented(maker.take(batch), batch.operations)

    def decoded() -> torch.Tensor:
        maker.start(batch)
        return maker.take(batch)

    times = compare(
        f"views of {len(plans)} JPEGs on the device by {name}",
        {"ours": views, "ours, decoded only": decoded},
    )
    count = [len(plans)] * plan.rounds
    record.figure(f"device_views_per_second{ours}{plan.suffix}", ratio(count, times["ours"]))
    only = ratio(count, times["ours, decoded only"])
    record.figure(f"device_decoded_per_second{ours}{plan.suffix}", only)
