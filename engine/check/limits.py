"""Faults of a run on this machine: what it takes, and what there is."""

import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from engine.check.setup import Setup
from engine.config import ConfigError, RunConfig
from engine.data.decoders import choose_decoders
from engine.data.micro_batches import micro_batch_size
from engine.evaluation.meteor import find_meteor
from engine.evaluation.spice import find_spice
from engine.findings import Finding, error, refusals, warning
from engine.runtime import choose_device
from engine.training.deepspeed_settings import deepspeed_config, never_read

# Files that a process has open beside its shards; batches that a worker holds ready.
OTHER_FILES, PREFETCHED = 256, 4
# Weights, their gradients and two moments; a momentum weight beside them.
TRAINED_BYTES = 16


def device(setup: Setup) -> Iterator[Finding]:
    """The device and its instructions."""
    config, host = setup.config, setup.host
    yield from refusals("device", lambda: choose_device(config.device))
    if config.precision == "bf16" and not host.bf16:
        yield warning(
            "bf16",
            "precision bf16: this machine has no instructions for it, products take longer than in "
            "fp32; set precision to fp32",
        )
    if host.gpus and config.device != "cpu" and setup.ranks > host.gpus:
        # Other machines may have as many.
        yield warning(
            "ranks",
            f"{setup.ranks} ranks and {host.gpus} GPUs here: so many machines must share them",
        )


def memory(setup: Setup) -> Iterator[Finding]:
    """The state of a rank against its memory; what a batch takes comes on top."""
    host, built = setup.host, setup.built
    on_gpu = host.gpus and setup.config.device != "cpu"
    there = host.gpu_memory if on_gpu else host.memory
    if built is None or not there:
        return
    trained = sum(parameter.numel() for parameter in built.model.parameters())
    followed = sum(t.nbytes for t in built.momentum.state_dict().values()) if built.momentum else 0
    shared = {0: 0, 1: 8, 2: 12, 3: 16}[setup.config.deepspeed.stage]
    each = TRAINED_BYTES - shared + shared / setup.ranks
    needed = trained * each + followed
    beside = 1 if on_gpu else setup.ranks_here
    if needed * beside > there:
        yield error(
            "memory",
            f"weights, gradients and moments of {beside} rank(s) take {needed * beside / 1e9:.3g} "
            f"GB and there are {there / 1e9:.3g} GB: take a smaller model.preset, or more ranks "
            "with a higher deepspeed.stage",
        )


def workers(setup: Setup) -> Iterator[Finding]:
    """Loader processes against cores, shared memory and open files."""
    host, count, here = setup.host, setup.config.data.workers, setup.ranks_here
    if count and count * here > max(host.cores, 4):
        yield warning(
            "workers",
            f"data.workers {count} x {here} rank(s) here are more than {host.cores} cores: they "
            f"take them from the steps; set it to {max(1, host.cores // here)}",
        )
    try:
        micro = micro_batch_size(setup.config, setup.ranks)
    except ConfigError:
        return
    side = setup.network.image_size
    views = 2 if setup.task == "nlvr" else getattr(setup.objective, "frames", 1)
    # A byte a value: pictures are normalised later, on the device.
    needed = here * count * PREFETCHED * micro * views * 3 * side * side
    if host.shared_memory is not None and needed > host.shared_memory:
        yield error(
            "shared_memory",
            f"data.workers {count} hold {needed / 1e9:.3g} GB of batches ready in /dev/shm, which "
            f"has {host.shared_memory / 1e9:.3g} GB: they would die of a bus error; lower it, or "
            f"start the container with --shm-size {max(1, round(needed / 2**30 * 1.5))}g",
        )
    if setup.train is not None and setup.train.shards + OTHER_FILES > host.open_files:
        yield error(
            "open_files",
            f"data.train has {setup.train.shards} shards, which stay open, and a process may have "
            f"{host.open_files} open files: ulimit -n {2 * (setup.train.shards + OTHER_FILES)}, or "
            "fewer and larger shards",
        )


def ranks(setup: Setup) -> Iterator[Finding]:
    """DeepSpeed, its settings, and the port that ranks meet at."""
    host, config = setup.host, setup.config
    if not host.deepspeed:
        yield error("deepspeed", "DeepSpeed is not installed: pip install deepspeed")
    if setup.ranks > 1 and not host.port_free:
        yield error(
            "port",
            f"port {host.port}, at which ranks meet, is taken: give the launcher another "
            "--master_port, or end what listens there",
        )
    settings: dict = {}
    yield from refusals("deepspeed_config", lambda: settings.update(deepspeed_config(config, 1, 1)))
    if settings and config.deepspeed.config is not None and host.deepspeed:
        yield from _read_by_deepspeed(config)
    zero, stage = settings.get("zero_optimization", {}), config.deepspeed.stage
    for name, needed in (("offload_optimizer", 1), ("offload_param", 3)):
        offload = zero.get(name)
        if offload and stage < needed:
            yield error(
                "zero_stage",
                f"deepspeed.config: {name} needs deepspeed.stage {needed} or more and it is "
                f"{stage}: raise it, or take {name} out",
            )
        if isinstance(offload, dict) and offload.get("device") == "nvme":
            place = offload.get("nvme_path")
            if not place or not Path(place).is_dir():
                yield error(
                    "zero_nvme",
                    f"deepspeed.config: {name} goes to nvme_path {place!r}, which is no folder: "
                    "set it to one on a fast disk",
                )


def _read_by_deepspeed(config: RunConfig) -> Iterator[Finding]:
    """The user's JSON as DeepSpeed itself reads it, which ignores keys that it does not know."""
    try:
        unread = never_read(config)
    except ConfigError as problem:
        yield error("deepspeed_config", str(problem))
        return
    for line in unread:
        place = f"deepspeed.config {config.deepspeed.config}"
        yield warning("deepspeed_key", f"{place}: {line}; DeepSpeed ignores it: take it out")


def extras(setup: Setup) -> Iterator[Finding]:
    """Packages and programs that settings ask for."""
    config, single = setup.config, setup.objective is None or setup.objective.slots.single
    place = "cuda" if setup.host.gpus and config.device != "cpu" else "cpu"
    kind = {"single": single, "fast_views": config.data.fast_views}
    choose = partial(choose_decoders, config.data.jpeg_decoder, place, **kind)
    yield from refusals("jpeg_decoder", choose)
    if config.train.cuda_graph and place == "cpu":
        said = "train.cuda_graph: it needs an NVIDIA GPU, and the run is on a cpu: leave it out"
        yield error("cuda_graph", said)
    evaluation = config.evaluate
    if evaluation.meteor:
        yield from refusals("meteor", find_meteor)
    if evaluation.spice is not None:
        yield from refusals("spice", lambda: find_spice(Path(evaluation.spice)))
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        mend = "pip install tensorboard, or set tensorboard to false"
        yield error("tensorboard", f"tensorboard is not installed: {mend}")


CHECKS = (device, memory, workers, ranks, extras)
