"""Captions a second from pictures to token ids: ours against Hugging Face's generate."""

from pathlib import Path

import pytest
import torch

from bench.captioning import hugging_face_program, our_program, write_for_hugging_face
from bench.conftest import Compare, Start
from bench.interleaved import ratio
from bench.machine import has_bf16
from bench.plan import Plan
from bench.record import Record
from bench.sides import Program
from blip_model.config import BlipConfig, preset

MODES = ("beam", "nucleus")


@pytest.fixture(scope="module")
def config(plan: Plan) -> BlipConfig:
    """Of both sides' network."""
    size = {"image_size": plan.caption_size} if plan.caption_size else {}
    return preset(plan.preset, **size)


@pytest.fixture(scope="module")
def folder(config: BlipConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our weights in Hugging Face's format."""
    found = tmp_path_factory.mktemp("weights")
    write_for_hugging_face(found / "hf", config)
    return found / "hf"


@pytest.mark.parametrize("mode", MODES)
def test_captions_a_second(
    start: Start,
    compare: Compare,
    plan: Plan,
    record: Record,
    config: BlipConfig,
    folder: Path,
    mode: str,
) -> None:
    precisions = ["fp32", "bf16"] if has_bf16(plan.device) else ["fp32"]
    given = (plan.caption_batch, mode, plan.device, precisions)
    sides = start(
        Program("hugging face", hugging_face_program, (folder, *given)),
        Program("ours", our_program, (config, *given)),
    )
    if mode == "beam":
        # The gate of this suite: the same captions, token for token. A GPU adds up in other orders,
        # so of its many pictures some beams that are nearly alike may change places.
        both = (torch.as_tensor(sides[f"{who} fp32"]()) for who in ("hugging face", "ours"))
        alike = torch.eq(*both).all(1).float().mean().item()
        record.note(f"captions of both libraries alike, token for token: {alike:.0%}")
        assert alike >= (0.9 if plan.device.type == "cuda" else 1.0)
    times = compare(f"caption, {mode}, {config.image_size} px, batch {plan.caption_batch}", sides)
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
