"""Tiny captioning-and-filtering runs for tests: weights, pairs, command lines."""

from pathlib import Path

import torch

from blip_model import Blip
from engine import checkpoint
from engine.inference import LoadedBlip, load
from launch import capfilt
from tests.commands import Ended, call, contents
from tests.shards import caption, picture, write_shards
from tests.tiny import spread, tiny_config

SHARDS, EACH = 3, 8
# A captioner of fresh weights writes many pieces of words.
ANY_WORDS = ("--rule.drop_not_words", "false")
NO_OUTPUT = (".work", "config.yaml", "throughput.jsonl", "report.html", ".report.html")


def make_world(folder: Path) -> Path:
    """Pairs, a captioner, and a filter that calls about half of all pairs matched."""
    write_shards(folder / "data", SHARDS * EACH, EACH)
    state = {"network": vars(tiny_config())}
    for name, seed, part in (("captioner", 0, "text_encoder"), ("filter", 1, "text_decoder")):
        torch.manual_seed(seed)
        model = Blip(tiny_config(), **{part: False})
        spread(model)
        checkpoint.write_as(folder / name, 0, {"model": model.state_dict()}, state)
    _centre(load(folder / "filter", device="cpu"), folder / "filter", state)
    return folder


def _centre(blip: LoadedBlip, place: Path, state: dict) -> None:
    """Matching scores of a fresh head all look alike: pull them apart, half below even."""
    count = 24
    views = blip.views([picture(n) for n in range(count)])
    ids, mask = blip.encode([caption(n) for n in range(count)])
    head = blip.model.itm_head
    with torch.no_grad():
        head.weight.mul_(100.0)
        logits = blip.model.match(ids, mask, blip.model.encode_image(views))
        head.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    checkpoint.write_as(place, 0, {"model": blip.model.state_dict()}, state)


def words(world: Path, output: Path, *more: object) -> list[str]:
    """A command line that does it all, fast."""
    return [
        *("--data.train", str(world / "data"), "--output_dir", str(output)),
        *("--captioner", str(world / "captioner"), "--filter", str(world / "filter")),
        *("--precision", "fp32", "--device", "cpu", "--threads", "1"),
        *("--batch_size", "4", "--data.workers", "2"),
        *("--caption.max_length", "7", "--caption.top_k", "40", *ANY_WORDS, *map(str, more)),
    ]


def clean(world: Path, output: Path, *more: object) -> Ended:
    """Run it in this process."""
    return call(capfilt.main, *words(world, output, *more))


def from_table(world: Path, earlier: Path, output: Path, *more: object) -> Ended:
    """Only the rule again."""
    given = ("--from_table", earlier, "--data.train", world / "data", "--output_dir", output)
    return call(capfilt.main, *given, *ANY_WORDS, *more)


def make_finished(folder: Path) -> Path:
    """`make_world` with a finished run, `alone`."""
    world = make_world(folder)
    assert clean(world, world / "alone").code == 0
    return world


def outcome(folder: Path) -> dict[str, str]:
    """Everything that a run made, but what holds paths or times: settings and report."""
    kept = contents(folder).items()
    return {name: digest for name, digest in kept if not name.startswith(NO_OUTPUT)}
