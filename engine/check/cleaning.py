"""Faults of a captioning-and-filtering run before it begins."""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from blip_model.config import BlipConfig
from engine.capfilt.config import CapFiltConfig
from engine.capfilt.folder import room_for
from engine.capfilt.from_table import EarlierRun
from engine.capfilt.identity import of_settings, refuse_other
from engine.capfilt.inputs import RemoteShard, name_shards
from engine.check.folder import existing, unwritable
from engine.check.host import Host
from engine.check.pairs import open_pairs
from engine.check.samples import unusable
from engine.check.settings import secrets
from engine.check.setup import Setup
from engine.check.shards import spread
from engine.check.weights import open_shapes, other_prompt
from engine.config import ConfigError, DataSection, RunConfig, to_dict
from engine.data.index import ShardError
from engine.data.shards import Shards
from engine.data.tokenizer import open_tokenizer
from engine.findings import Finding, error, refusals, warning
from engine.remote.config import RemoteSection
from engine.runtime import choose_device
from engine.weights import Weights

# Servers are asked for so many shards, each time for at most so many seconds, and once.
ASKED, PATIENCE = 3, 2.0
PARTS = {"captioner": "text_decoder", "filter": "text_encoder"}
RUNS = {"captioner": "cannot caption", "filter": "cannot retrieve or score"}


@dataclass(frozen=True)
class Cleaning:
    """A captioning-and-filtering run that may begin."""

    config: CapFiltConfig
    host: Host


def pairs(run: Cleaning) -> Iterator[Finding]:
    """The input shards: named, there, whole, and a sample of their pairs."""
    data = run.config.data
    try:
        shards = name_shards(data.train, _impatient(run.config.remote))
    except ConfigError as problem:
        yield error("data_missing", f"data.train: {problem}")
        return
    earlier = _earlier(run.config)
    if earlier is not None:
        yield from refusals("from_table", lambda: earlier.require(list(shards)))
    local = [str(shard) for shard in shards.values() if isinstance(shard, Path)]
    far = [shard for shard in shards.values() if isinstance(shard, RemoteShard)]
    yield from _reachable(far)
    if not local:
        return
    yield from _room(Path(run.config.output_dir), local)
    found, findings = open_pairs("data.train", local, None, "caption")
    yield from findings
    if found is not None:
        section = DataSection(max_words=data.max_words, max_pixels=data.max_pixels)
        config = RunConfig(data=section)
        yield from unusable(Setup(config, "capfilt", 1, run.host, None, None, found, None))
        if earlier is not None and isinstance(found.source, Shards):
            opened = found.source
            yield from refusals("from_table", lambda: _same(earlier, opened))


def _earlier(config: CapFiltConfig) -> EarlierRun | None:
    """The run that texts are taken of; why there is none is a finding of `models`."""
    with suppress(ConfigError):
        return EarlierRun(Path(config.from_table)) if config.from_table else None
    return None


def _same(earlier: EarlierRun, opened: Shards) -> None:
    for index in opened.indexes():
        # What the earlier run could not read is none of this one's; what it has not is named above.
        with suppress(ShardError, FileNotFoundError):
            earlier.purged(index.path.stem, index)


def _reachable(shards: list[RemoteShard]) -> Iterator[Finding]:
    """Whether servers have the shards; bounded in number and time."""
    limit = time.monotonic() + ASKED * PATIENCE
    for shard in spread(shards, ASKED):
        if time.monotonic() > limit:
            return
        try:
            shard.size()
        except ConfigError as problem:
            line = f"data.train: {problem}; is the URL right, and the server to be reached?"
            yield error("url_unreachable", line)


def _impatient(section: RemoteSection) -> RemoteSection:
    return replace(section, retries=0, timeout=min(section.timeout, PATIENCE))


def models(run: Cleaning) -> Iterator[Finding]:
    """Captioner and filter, by their headers."""
    config = run.config
    if config.from_table:
        if not Path(config.from_table).is_dir():
            line = f"from_table {config.from_table}: no such folder; name an earlier run's"
            yield error("from_table", line)
        else:
            place = Path(config.from_table)
            yield from refusals("from_table", lambda: EarlierRun(place).identity(config))
        return
    for name, part in PARTS.items():
        place = getattr(config, name)
        if not place:
            yield error("weights", f"no {name}: set --{name} to a run folder or weights")
            continue
        found, findings = open_shapes(name, place)
        yield from findings
        if found is not None:
            yield from _fitting(run, name, part, found)
    if config.captioner:
        key = "caption.prompt"
        yield from other_prompt(key, config.caption.prompt, "captioner", config.captioner)


def _fitting(run: Cleaning, name: str, part: str, found: Weights) -> Iterator[Finding]:
    """Whether weights have the part that is needed, and room for its texts."""
    config, network = run.config, found.config
    if not any(tensor.startswith(f"{part}.") for tensor in found.tensors):
        yield error(
            "weights_other_task",
            f"{name} {getattr(config, name)}: these weights {RUNS[name]}: they have no {part}; "
            f"give a {name}",
        )
    yield from _vocabulary(run, name, network)
    longest = {"captioner": config.caption.max_length, "filter": config.data.max_tokens}[name]
    key = {"captioner": "caption.max_length", "filter": "data.max_tokens"}[name]
    if longest > network.max_positions:
        yield error(
            "positions",
            f"{key} {longest}: {name} has {network.max_positions} positions; lower it",
        )
    size = config.model.image_size
    if size is not None and size % network.patch_size:
        yield error(
            "image_size",
            f"model.image_size {size} is not a multiple of the {network.patch_size} pixels of a "
            f"patch of these weights: set model.image_size to {network.image_size}",
        )
    elif size is not None and size != network.image_size:
        yield warning(
            "positions_interpolated",
            f"{name} was trained on pictures of {network.image_size} pixels, model.image_size is "
            f"{size}: its positions are interpolated",
        )


def _vocabulary(run: Cleaning, name: str, network: BlipConfig) -> Iterator[Finding]:
    """The words of the weights, and room for some behind the prompt."""
    try:
        tokenizer = open_tokenizer(run.config.model.vocabulary, network)
    except ConfigError as problem:
        yield error("vocabulary", str(problem))
        return
    caption = run.config.caption
    prompt = tokenizer.encode([caption.prompt], network.max_positions)[0].shape[1] - 1
    if name == "captioner" and caption.max_length <= prompt:
        yield error(
            "prompt_fills",
            f"caption.max_length {caption.max_length}: must be above the {prompt} tokens of "
            "caption.prompt, which leaves none for a caption; raise it",
        )


def folder(run: Cleaning) -> Iterator[Finding]:
    """The output folder: another run in it, or no permission."""
    config = run.config
    wrong = list(unwritable(config.output_dir))
    yield from wrong
    if not wrong:
        ours, earlier = of_settings(config), _earlier(config)
        if earlier is not None:
            with suppress(ConfigError):
                ours = earlier.identity(config)
        yield from refusals("output_other_run", lambda: refuse_other(config, ours, whole=False))


def _room(folder: Path, shards: list[str]) -> Iterator[Finding]:
    """Free space against the cleaned shards, each as large as it may get."""
    try:
        sizes = [room_for(Path(shard).stat().st_size) for shard in shards]
    except OSError:
        # One that is not there is named as such.
        return
    made = sum(file.stat().st_size for file in folder.glob("shards/*") if file.is_file())
    needed, free = sum(sizes), shutil.disk_usage(existing(folder)).free
    if needed <= free + made:
        return
    line = (
        f"output_dir {folder}: its shards may take {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB "
        "are free: make room, or name another folder"
    )
    yield error("disk", line) if free < max(sizes) else warning("disk", line)


def machine(run: Cleaning) -> Iterator[Finding]:
    """The device, its instructions, and threads."""
    config, host = run.config, run.host
    yield from refusals("device", lambda: choose_device(config.device))
    if config.precision == "bf16" and not host.bf16:
        mend = "set precision to fp32"
        yield warning("bf16", f"precision bf16: this machine has no instructions for it; {mend}")
    yield from secrets(to_dict(config))


CHECKS = (pairs, models, folder, machine)
