"""Captioning and filtering: the work of a picture, counted, and what a second process brings."""

import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.interleaved import ratio
from bench.machine import ROOT, has_bf16
from bench.original_captioning import OriginalCaptioner
from bench.plan import LENGTHS, Plan
from bench.record import Record
from bench.test_data import photo
from blip_model import Blip
from blip_model.config import BlipConfig, preset
from blip_model.nucleus import Nucleus
from blip_model.pair_scores import matching_logits, similarities
from blip_model.slots import caption_groups
from blip_model.text_cache import DecodingCache
from blip_model.waiting import Encoded
from engine import checkpoint
from engine.data.shard_writer import ShardWriter

# [DEC] a picture of, and captions of full length, so that both sides decode the same number.
PROMPT, MAX_LENGTH, PICTURES = (1037, 3861, 1997), 20, 2
# Pictures a shard, as a share of the largest; twice over.
UNEQUAL = (1.0, 0.25, 0.6, 0.1, 0.8, 0.35, 0.15, 0.5, 0.9, 0.2) * 2
# Pictures of each shard of the run that is timed as a whole. On a GPU the first shard of a process
# is not: kernels are compiled and recorded in it.
CLEANED = {"cpu": [16], "gpu": [2048] * 4}
# What is added to the logit of its captions' end, so that they have twelve tokens beside the
# prompt's in the mean, and some have one and others sixteen.
ENDS = 6.9
# Photos of which they are, and their size.
PHOTOS, PHOTO = 64, (500, 375)
# Pictures at once, and processes that decode them.
TAKEN = {
    "cpu": ["--batch_size", "16", "--data.workers", "1"],
    "gpu": ["--batch_size", "256", "--data.workers", "8"],
}
# A process that has a core to itself.
ALONE = ("--device", "cpu", "--precision", "fp32", *TAKEN["cpu"])


def flops(work: Callable[[], object]) -> float:
    """Floating-point operations a picture; attention as two products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return counter.get_total_flops() / PICTURES


def test_work_of_a_picture(plan: Plan, record: Record) -> None:
    torch.manual_seed(0)
    size = {"image_size": plan.caption_size} if plan.caption_size else {}
    config = preset(plan.preset, dropout=0.0, vision_drop_path=0.0, **size)
    ours, theirs = Blip(config).eval(), OriginalCaptioner(config).eval()
    state = ours.state_dict()
    theirs.load_state_dict({name: state[name] for name in theirs.state_dict()})
    image = torch.randn(PICTURES, 3, config.image_size, config.image_size)
    ids, web, web_mask = texts(config)
    _same_logits(ours, theirs, image, ids)
    captions = ids.clone()
    captions[:, 0] = config.enc_token_id
    pairs = [(web, web_mask), (captions, torch.ones_like(captions))]

    def score_original() -> None:
        states = theirs.visual_encoder(image)
        for text, mask in pairs:
            theirs.match(states, text, mask)

    def score_ours() -> None:
        both = torch.stack([F.pad(web, (0, 2)), captions], 1).flatten(0, 1)
        masks = torch.stack([F.pad(web_mask, (0, 2)), pairs[1][1]], 1)
        given = (both, masks.flatten(0, 1), ours.encode_image(image), torch.full((PICTURES,), 2))
        matching_logits(ours, *given)
        similarities(ours, *given)

    caption = {
        "original": flops(lambda: theirs.next_logits(image, ids, len(PROMPT) + 1)),
        "ours": flops(lambda: sample(ours, image, ids)),
    }
    whole = {
        "original": caption["original"] + flops(score_original),
        "ours": caption["ours"] + flops(score_ours),
    }
    for name, found in (("caption", caption), ("cleaned_picture", whole)):
        record.figure(f"flops_per_{name}{plan.suffix}", found["ours"])
        record.figure(f"flops_per_{name}_original{plan.suffix}", found["original"])
        record.figure(f"flops_per_{name}_ratio{plan.suffix}", found["original"] / found["ours"])


def texts(config: BlipConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Captions [B, 20], and web texts of usual lengths with their mask."""
    words = torch.randint(1000, config.vocab_size - 2, (PICTURES, MAX_LENGTH))
    words[:, 0] = config.bos_token_id
    words[:, 1 : len(PROMPT) + 1] = torch.tensor(PROMPT)
    web = torch.randint(1000, config.vocab_size - 2, (PICTURES, max(LENGTHS)))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS[:PICTURES])[:, None]).long()
    web[:, 0] = config.enc_token_id
    return words, web * mask, mask


def sample(model: Blip, image: torch.Tensor, ids: torch.Tensor) -> None:
    """As captioning and filtering does, to the full length."""
    how = Nucleus(max_length=MAX_LENGTH, min_length=MAX_LENGTH)
    numbers = torch.rand(PICTURES, 1, MAX_LENGTH, dtype=torch.float64)
    waiting = Encoded(model.encode_image(image), ids[:, : len(PROMPT) + 1], numbers)
    (made,) = caption_groups(model, [waiting], how, PICTURES)
    assert made.shape == (PICTURES, 1, MAX_LENGTH)
    assert (made != model.config.pad_token_id).all()


@torch.no_grad()
def _same_logits(
    ours: Blip, theirs: OriginalCaptioner, image: torch.Tensor, ids: torch.Tensor
) -> None:
    """The gate of this suite: both sides compute the same."""
    prompt = len(PROMPT) + 1
    expected = theirs.next_logits(image, ids, prompt)
    cache = DecodingCache(ours, PICTURES, 1, MAX_LENGTH)
    states = ours.encode_image(image)
    found = [cache.admit(torch.arange(PICTURES), states, ids[:, :prompt])]
    found += [cache.extend(ids[:, at]) for at in range(prompt, MAX_LENGTH - 1)]
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-3, atol=1e-3)


def test_a_second_process(plan: Plan, record: Record) -> None:
    if (os.cpu_count() or 1) < 2:
        record.note("two_process_speedup: not measured, it needs two cores")
        pytest.skip("one core")
    if plan.quick:
        record.note("two_process_speedup is left out of --quick: 15 starts of Python")
        pytest.skip("left out of --quick")
    seconds: dict[str, list[float]] = {"one process": [], "two processes": []}
    with tempfile.TemporaryDirectory() as folder:
        # Of ViT-B a run would take half an hour; what is measured is how the shards are shared.
        name = "small" if plan.preset == "base" else plan.preset
        largest = 4 if plan.preset == "tiny" else 60
        make_world(Path(folder), name, 0, [max(1, round(largest * share)) for share in UNEQUAL])
        weights = str(Path(folder) / "weights")
        how = [*ALONE, "--captioner", weights, "--filter", weights]
        for number in range(plan.rounds):
            sides = list(seconds)
            for side in sides if number % 2 == 0 else reversed(sides):
                output = Path(folder) / f"{side}_{number}"
                given = {"processes": sides.index(side) + 1, "threads": 1}
                seconds[side].append(clean(Path(folder), output, how, **given))
    record.compare("captioning and filtering, one thread a process", seconds)
    speedup = ratio(seconds["one process"], seconds["two processes"])
    record.figure(f"two_process_speedup{plan.suffix}", speedup)


@pytest.mark.parametrize("processes", [1, 2])
def test_cleaned_pictures_a_second(plan: Plan, record: Record, processes: int) -> None:
    if processes > 1 and plan.hardware == "cpu":
        pytest.skip("two_process_speedup says what a second process brings")
    precision = "bf16" if has_bf16(plan.device) else "fp32"
    how = ["--device", plan.device.type, "--precision", precision, *TAKEN[plan.hardware]]
    counts = [2] if plan.preset == "tiny" else CLEANED[plan.hardware] * processes
    photos = [photo(number, *PHOTO) for number in range(min(PHOTOS, max(counts)))]
    with tempfile.TemporaryDirectory() as folder:
        make_world(Path(folder), plan.preset, plan.caption_size, counts, photos, ends=ENDS)
        # By another name they are other weights, whose encoder the captioner's does not spare.
        other = Path(folder) / "filter"
        other.symlink_to("weights")
        how += ["--captioner", str(Path(folder) / "weights"), "--filter", str(other)]
        rounds = range(1 if plan.quick else plan.rounds)
        given = {"processes": processes, "warm": processes if len(counts) > 1 else 0}
        seconds = [clean(Path(folder), Path(folder) / f"{n}", how, **given) for n in rounds]
    speed = ratio([float(sum(counts[given["warm"] :]))] * len(seconds), seconds)
    several = "_two_processes" if processes > 1 else ""
    record.figure(f"cleaned_pictures_per_second{several}{plan.suffix}", speed)


def make_world(
    folder: Path,
    name: str,
    image_size: int,
    counts: Sequence[int],
    photos: Sequence[bytes] = (),
    ends: float = 0.0,
) -> None:
    """Weights of a preset that captions and scores are made with, and shards of so many pictures.

    Args:
        folder: that gets them.
        name: of the preset.
        image_size: in pixels; 0 is the preset's.
        counts: pictures of each shard.
        photos: JPEGs that they are, again and again; none makes them of noise, 64 px each.
        ends: added to the logit of a caption's end.
    """
    torch.manual_seed(0)
    config = preset(name, **({"image_size": image_size} if image_size else {}))
    state, weights = {"network": vars(config)}, Blip(config).state_dict()
    weights["text_decoder.cls.predictions.bias"][config.sep_token_id] += ends
    checkpoint.write_as(folder / "weights", 0, {"model": weights}, state)
    chance = random.Random(0)
    for number, count in enumerate(counts):
        with ShardWriter(folder / "data", f"pairs_{number:02d}", count) as writer:
            for key in range(count):
                content, form = (
                    (photos[key % len(photos)], "jpg") if photos else (noise(chance), "png")
                )
                # [ENC] and [SEP] are tokens of a text too.
                text = " ".join(["noise"] * (LENGTHS[key % len(LENGTHS)] - 2))
                writer.add(f"{number:02d}{key:04d}", content, form, text, {})


def noise(chance: random.Random) -> bytes:
    """A picture that nobody has seen."""
    out = io.BytesIO()
    Image.frombytes("RGB", (64, 64), chance.randbytes(3 * 64 * 64)).save(out, "PNG")
    return out.getvalue()


def clean(
    folder: Path,
    output: Path,
    how: Sequence[str],
    *,
    processes: int = 1,
    threads: int | None = None,
    warm: int = 0,
) -> float:
    """Seconds from the first lease to the last ledger: starting Python is not in them.

    Args:
        folder: with weights and shards.
        output: folder that is written.
        how: words of the command.
        processes: of one launch.
        threads: of each; None leaves it to it.
        warm: from the ledger of the shard of this number instead, if any.
    """
    words = ["--data.train", str(folder / "data"), "--output_dir", str(output)]
    words += how
    limit = {} if threads is None else {"OMP_NUM_THREADS": f"{threads}"}
    leases = output / ".work" / "leases"
    running = [
        subprocess.Popen(
            [sys.executable, "launch/capfilt.py", *words],
            cwd=ROOT,
            env=os.environ
            | limit
            | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            | {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            stderr=subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]
    while not (leases.is_dir() and any(leases.iterdir())):
        assert all(one.poll() is None for one in running), "it did not start"
        time.sleep(0.005)
    began = time.time()
    assert [one.wait() for one in running] == [0] * processes
    ended = sorted(path.stat().st_mtime for path in (output / "ledger").iterdir())
    return ended[-1] - (ended[warm - 1] if warm else began)
