"""Captions a second from pictures to token ids: ours against Hugging Face's generate."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import BlipForConditionalGeneration

from bench.conftest import Compare
from bench.interleaved import Side, ratio
from bench.machine import has_bf16
from bench.plan import Plan
from bench.record import Record
from blip_model.caption import BlipCaption
from blip_model.config import preset
from blip_model.generate import beam_search, nucleus
from blip_model.stored_products import store_products
from engine.huggingface_folder import write_folder

# [DEC] a picture of: what the original starts with. No caption may end before the last token, so
# that both sides always decode the same number of them.
PROMPT, MAX_LENGTH, BEAMS = (1037, 3861, 1997), 20, 3
MODES = ("beam", "nucleus")


@pytest.fixture(scope="module")
def captioners(plan: Plan) -> tuple[BlipCaption, BlipForConditionalGeneration]:
    """The same weights in both libraries."""
    torch.manual_seed(0)
    size = {"image_size": plan.caption_size} if plan.caption_size else {}
    config = preset(plan.preset, **size)
    ours = BlipCaption(config)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder) / "hf", ours.state_dict(), config, None)
        theirs = BlipForConditionalGeneration.from_pretrained(Path(folder) / "hf")
    return ours.to(plan.device).eval(), theirs.to(plan.device).eval()


def hugging_face(model: BlipForConditionalGeneration, image: torch.Tensor, mode: str) -> Side:
    """`generate` with the settings of the mode; it drops the last token of what it is given."""
    config, image = model.config.text_config, image.to(model.dtype)
    start = [config.bos_token_id, *PROMPT, config.sep_token_id]
    ids = torch.tensor([start] * len(image), device=image.device)
    settings = {"num_beams": BEAMS, "do_sample": False}
    if mode == "nucleus":
        settings = {"do_sample": True, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1}
    lengths = {"max_length": MAX_LENGTH, "min_length": MAX_LENGTH}
    mask = torch.ones_like(ids)
    return lambda: model.generate(image, ids.clone(), mask, **settings, **lengths)


def ours(model: BlipCaption, image: torch.Tensor, mode: str, precision: str) -> Side:
    """Encode once, then decode with static caches."""
    start = [model.config.bos_token_id, *PROMPT]
    ids = torch.tensor([start] * len(image), device=image.device)
    lengths = {"max_length": MAX_LENGTH, "min_length": MAX_LENGTH}

    @torch.no_grad()
    def caption() -> torch.Tensor:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bf16"):
            states = model.encode_image(image)
            if mode == "beam":
                return beam_search(model, states, ids, num_beams=BEAMS, **lengths)
            return nucleus(model, states, ids, top_p=0.9, repetition_penalty=1.1, **lengths)

    return caption


@pytest.mark.parametrize("mode", MODES)
def test_captions_a_second(
    compare: Compare,
    plan: Plan,
    record: Record,
    captioners: tuple[BlipCaption, BlipForConditionalGeneration],
    mode: str,
) -> None:
    mine, theirs = captioners
    size = mine.config.image_size
    image = torch.randn(plan.caption_batch, 3, size, size, device=plan.device)
    precisions = ["fp32", "bf16"] if has_bf16(plan.device) else ["fp32"]
    models, own = {"fp32": theirs}, {"fp32": mine}
    if "bf16" in precisions:
        models["bf16"] = copy.deepcopy(theirs).to(torch.bfloat16)
        # As `engine.load` opens them.
        own["bf16"] = copy.deepcopy(mine)
        store_products(own["bf16"], torch.bfloat16)
    sides = {f"hugging face {p}": hugging_face(models[p], image, mode) for p in precisions}
    sides |= {f"ours {p}": ours(own[p], image, mode, p) for p in precisions}
    if mode == "beam":
        # The gate of this suite: the same captions, token for token. A GPU adds up in other orders,
        # so of its many pictures some beams that are nearly alike may change places.
        theirs_first, ours_first = (sides[f"{who} fp32"]() for who in ("hugging face", "ours"))
        alike = (theirs_first == ours_first).all(1).float().mean().item()
        record.note(f"captions of both libraries alike, token for token: {alike:.0%}")
        assert alike >= (0.9 if plan.device.type == "cuda" else 1.0)
    times = compare(f"caption, {mode}, {size} px, batch {plan.caption_batch}", sides)
    _keep(record, times, mode, plan)


def _keep(record: Record, times: dict[str, list[float]], mode: str, plan: Plan) -> None:
    count, name = [plan.caption_batch] * plan.rounds, f"caption_throughput_ratio_hf_{mode}"
    best = times.get("ours bf16", times["ours fp32"])
    for precision in ("fp32", "bf16"):
        if theirs := times.get(f"hugging face {precision}"):
            same = ratio(theirs, times[f"ours {precision}"])
            record.figure(f"{name}_{precision}{plan.suffix}", same)
    record.figure(f"captions_per_second_{mode}{plan.suffix}", ratio(count, best))
    shipped = ratio(times["hugging face fp32"], best)
    record.figure(f"{name}{plan.suffix}", shipped)
    # The headline is the worse of both modes.
    headline = f"caption_throughput_ratio_hf{plan.suffix}"
    if shipped.value < record.figures.get(headline, float("inf")):
        record.figure(headline, shipped)
