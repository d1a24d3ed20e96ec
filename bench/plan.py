"""What a run measures: sizes and repeats by hardware, and what `--quick` leaves out."""

from dataclasses import dataclass

import torch

SUITES = ("work", "anchors", "step", "kernels", "layers", "captioning", "capfilt", "rerank", "data")
SUITES += ("safety",)
# Tokens of a caption, special ones included: mean 13, as web captions have (reference: ~11 + 2).
LENGTHS = (10, 16, 12, 14, 8, 18, 11, 15)


@dataclass(frozen=True)
class Plan:
    """Sizes of every suite.

    Attributes:
        hardware: `cpu` or `gpu`.
        quick: fewer settings, at most 9 minutes on two cores.
        preset: of the network; figures of another one than `base` carry its name.
        rounds: timed repeats of every side.
        steps: (preset, pairs a batch) of the step suite; the first gives the headline.
        peer_batch: pairs a batch against the strong peer, GPU only.
        queue_size: momentum features kept.
        kernel_batch: rows of the kernels.
        caption_batch: pictures captioned at once.
        caption_size: their side in pixels.
        pictures: that the loaders read.
        samples_read: one after the other while memory is watched.
    """

    hardware: str
    quick: bool
    preset: str
    rounds: int
    steps: tuple[tuple[str, int], ...]
    peer_batch: int
    queue_size: int
    kernel_batch: int
    caption_batch: int
    caption_size: int
    pictures: int
    samples_read: int

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device("cuda" if self.hardware == "gpu" else "cpu")

    @property
    def suffix(self) -> str:
        """Of figures: none for `base`, which they are defined for."""
        return "" if self.preset == "base" else f"_{self.preset}"


def plan(hardware: str, quick: bool, preset: str = "base") -> Plan:
    """The sizes of a run.

    Args:
        hardware: `cpu` or `gpu`.
        quick: take the short one.
        preset: `base`, or another to try the suites out.
    """
    sizes = {"hardware": hardware, "quick": quick, "preset": preset}
    if preset != "base":
        small = {"queue_size": 48, "kernel_batch": 4, "caption_batch": 2, "caption_size": 0}
        steps = ((preset, 4),)
        return Plan(
            **sizes, rounds=3, steps=steps, peer_batch=4, **small, pictures=8, samples_read=1000
        )
    sizes |= {"queue_size": 57600, "samples_read": 20_000 if quick else 200_000}
    if hardware == "gpu":
        steps = (("base", 64),) if quick else (("base", 64), ("small", 256))
        batches = {"peer_batch": 256, "kernel_batch": 512, "caption_batch": 64}
        rest = {"rounds": 5 if quick else 10, "caption_size": 384, "pictures": 1024}
        return Plan(**sizes, steps=steps, **batches, **rest)
    steps = (("base", 4),) if quick else (("base", 4), ("base", 16), ("small", 4), ("small", 16))
    batches = {"peer_batch": 0, "kernel_batch": 16, "caption_batch": 2 if quick else 8}
    pictures = 128 if quick else 512
    return Plan(**sizes, rounds=5, steps=steps, **batches, caption_size=384, pictures=pictures)
