"""What a run says of itself: metrics.jsonl, TensorBoard and one progress line."""

import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from engine.config import RunConfig
from engine.durable import write_whole
from engine.runtime import Runtime

log = logging.getLogger(__name__)
LOSSES = ("loss_itc", "loss_itm", "loss_lm")
# Dense bf16 tensor-core peaks, FLOP/s, from the vendor's data sheets.
PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}


def peak_flops(device: torch.device) -> float | None:
    """The device's bf16 peak in FLOP/s, or None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAKS.items() if key in name), None)


class Telemetry:
    """Collects on the device, reads once a log interval, writes on the main process.

    Args:
        folder: the run folder.
        config: of the run.
        runtime: of this process.
        losses: names of the run's; a line says null for those of `LOSSES` that it lacks.
        start_step: step that the run continues from; later lines of an earlier run are cut.
        last_step: of the run.
        flops_per_pair: forward and backward work, for the MFU.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        runtime: Runtime,
        losses: tuple[str, ...],
        start_step: int,
        last_step: int,
        flops_per_pair: float,
    ) -> None:
        self.config, self.runtime, self.losses = config, runtime, losses
        self.last_step, self.start_step = last_step, start_step
        self.flops_per_pair, self.peak = flops_per_pair, peak_flops(runtime.device)
        if config.data.curriculum:
            # The work of a pair is not one number then.
            self.peak = None
        self.skipped_steps = 0
        self._begun = self._interval_begun = time.perf_counter()
        self._interval_step = start_step
        self._wait = 0.0
        # Losses of the accepted steps since the last line, and their number.
        self._sums = torch.zeros(len(losses) + 1, dtype=torch.float64, device=runtime.device)
        self._file = self._events = None
        self._live = sys.stderr.isatty()
        if runtime.is_main:
            path = folder / "metrics.jsonl"
            # A run that goes on in a new folder has no lines there yet.
            moved = not (folder / "config.yaml").is_file()
            _cut_after(path, start_step, gap=start_step if moved else config.train.log_every)
            self._file = path.open("a", encoding="utf-8")
            if config.tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)

    def waited(self, seconds: float) -> None:
        """Time spent waiting for data: at most, as a device may have been busy for a part of it."""
        self._wait += seconds

    def add(self, losses: torch.Tensor) -> None:
        """Take an accepted step's losses on this rank: float64, in the order of the run's."""
        self._sums[:-1] += losses
        self._sums[-1] += 1

    def skip(self) -> None:
        """Count a step that was not taken."""
        self.skipped_steps += 1

    def unfinished(self) -> list[float]:
        """Sums of the interval that has not been logged yet, for a checkpoint. Collective."""
        return self.runtime.mean(self._sums.clone()).tolist()

    def resume(self, unfinished: list[float], skipped_steps: int) -> None:
        """Take over the counts of a checkpoint, so that the next line is the same as without."""
        self._sums.copy_(torch.tensor(unfinished, dtype=torch.float64))
        self.skipped_steps = skipped_steps

    def log(
        self, step: int, learning_rate: float, temperature: float | None, bad_samples: int
    ) -> None:
        """Write a line for the steps since the last one; every process calls it."""
        now, done = time.perf_counter(), step - self._interval_step
        sums = self.runtime.mean(self._sums.clone()).tolist()
        elapsed = max(now - self._interval_begun, 1e-9)
        rate = done * self.config.train.global_batch_size / elapsed
        record = {
            "step": step,
            "samples_seen": step * self.config.train.global_batch_size,
            **dict.fromkeys(LOSSES),
            **{
                n: s / sums[-1] if sums[-1] else None
                for n, s in zip(self.losses, sums[:-1], strict=True)
            },
            "lr": learning_rate,
            "temperature": temperature,
            "images_per_second": rate,
            "data_wait_fraction": min(1.0, self._wait / elapsed),
            "mfu": self._mfu(rate),
            "skipped_steps": self.skipped_steps,
            "bad_samples": bad_samples,
            "eta_seconds": (self.last_step - step) * elapsed / max(done, 1),
        }
        self._interval_begun, self._interval_step, self._wait = now, step, 0.0
        self._sums.zero_()
        if self._file:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            self._show(record)
            if self._events:
                for name, value in record.items():
                    if value is not None and name not in ("step", "eta_seconds"):
                        self._events.add_scalar(name, value, step)

    def _mfu(self, rate: float) -> float | None:
        if self.peak is None:
            return None
        return rate * self.flops_per_pair / (self.peak * self.runtime.world_size)

    def _show(self, record: dict[str, Any]) -> None:
        losses = " ".join(
            f"{name.removeprefix('loss_')} {record[name]:.3f}" if record[name] is not None else ""
            for name in self.losses
        )
        mfu = "-" if record["mfu"] is None else f"{record['mfu']:.1%}"
        line = (
            f"step {record['step']}/{self.last_step}  {losses}  lr {record['lr']:.2e}  "
            f"{record['images_per_second']:.1f} img/s  wait {record['data_wait_fraction']:.0%}  "
            f"mfu {mfu}  eta {clock(record['eta_seconds'])}"
        )
        extra = {"skipped": record["skipped_steps"], "bad": record["bad_samples"]}
        line += "".join(f"  {name} {count}" for name, count in extra.items() if count)
        if self._live and record["step"] < self.last_step:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(f"\r\033[K{line}" if self._live else line, file=sys.stderr, flush=True)

    def sync(self) -> None:
        """Bring what was written to the disk, so that a checkpoint and its metrics agree."""
        if self._file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files; what a full disk refused is not tried again."""
        for open_one in (self._file, self._events):
            if open_one:
                with contextlib.suppress(OSError):
                    open_one.close()


def clock(seconds: float) -> str:
    """3725 -> `1:02:05`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _cut_after(path: Path, step: int, gap: int) -> None:
    """Remove lines of steps that the resumed run makes again, and what is no line; say where more
    than `gap` steps before it have none. Lines of a run that nothing is left of stay, under another
    name."""
    content = path.read_bytes() if path.is_file() else b""
    logged = [(number, line) for line in content.splitlines() if (number := _step_of(line))]
    kept = [(number, line) for number, line in logged if number <= step]
    last = max((number for number, _ in kept), default=0)
    if logged and not step:
        before = path.with_stem(f"{path.stem}_before")
        earlier = before.read_bytes() if before.is_file() else b""
        write_whole(before, earlier + content)
        told = f"{logged[-1][0]} steps were logged and no checkpoint holds any of them"
        log.warning("%s: %s: starting anew; their lines are in %s", path, told, before.name)
    elif step - last > gap:
        log.warning("%s: has no line of steps %d to %d", path, last + 1, step)
    if content:
        write_whole(path, b"".join(line + b"\n" for _, line in kept))


def _step_of(line: bytes) -> int | None:
    """That a line is of; None where it is damaged or was cut short."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
