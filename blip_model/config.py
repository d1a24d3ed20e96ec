"""The network's shape: one frozen dataclass and a table of named sizes."""

from dataclasses import dataclass, replace
from typing import Literal

# What the backward pass makes again instead of keeping it: nothing, norms and activations, these
# and layers of the image encoder, these and all layers.
Recomputed = Literal["none", "norms", "vision", "all"]


@dataclass(frozen=True, kw_only=True)
class BlipConfig:
    """Sizes of the image encoder and of the text transformer (MED), and its special tokens.

    Defaults are BLIP with ViT-B/16 (Li et al. 2022, arXiv:2201.12086). Widths and lengths count
    elements, probabilities lie in [0, 1). `initial_std` is the deviation that weights are drawn
    with: BERT's and ViT's 0.02 suits rows of 768 and starves narrow networks, whose branches then
    add next to nothing (LOG.md).

    Raises:
        ValueError: sizes that do not fit each other.
    """

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vision_drop_path: float = 0.0
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_intermediate: int = 3072
    vocab_size: int = 30524
    max_positions: int = 512
    embed_dim: int = 256
    dropout: float = 0.1
    initial_std: float = 0.02
    pad_token_id: int = 0
    sep_token_id: int = 102
    bos_token_id: int = 30522
    enc_token_id: int = 30523

    def __post_init__(self) -> None:
        if self.image_size <= 0 or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        for tower in ("vision", "text"):
            width, heads = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_heads")
            if heads < 1 or width % heads:
                raise ValueError(
                    f"{tower}_width {width} is not a multiple of {tower}_heads {heads}"
                )
        for name in ("dropout", "vision_drop_path"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} {getattr(self, name)} is outside [0, 1)")
        for name in ("pad_token_id", "sep_token_id", "bos_token_id", "enc_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"{name} is outside the vocabulary of {self.vocab_size}")

    @property
    def image_tokens(self) -> int:
        """Patches of one picture plus the CLS token."""
        return (self.image_size // self.patch_size) ** 2 + 1


PRESETS: dict[str, BlipConfig] = {
    "base": BlipConfig(),
    "large": BlipConfig(vision_width=1024, vision_layers=24, vision_heads=16, vision_drop_path=0.1),
    # The text side of `small` has the width of the 6-layer MiniLM; every other layer starts it.
    "small": BlipConfig(
        image_size=96,
        vision_width=256,
        vision_layers=6,
        vision_heads=4,
        text_width=384,
        text_layers=3,
        text_heads=12,
        text_intermediate=1536,
    ),
    # Learns OpenMoji's pairs in minutes on a CPU core, text and all from nothing.
    "mini": BlipConfig(
        image_size=64,
        patch_size=8,
        vision_width=128,
        vision_layers=4,
        vision_heads=4,
        text_width=128,
        text_layers=2,
        text_heads=4,
        text_intermediate=512,
        max_positions=64,
        embed_dim=64,
        initial_std=0.09,
    ),
    "tiny": BlipConfig(
        image_size=32,
        patch_size=8,
        vision_width=32,
        vision_layers=2,
        vision_heads=2,
        text_width=32,
        text_layers=2,
        text_heads=2,
        text_intermediate=64,
        max_positions=64,
        embed_dim=16,
    ),
}


def preset(name: str, **changes: object) -> BlipConfig:
    """A named size with some fields replaced.

    Raises:
        ValueError: unknown name, or sizes that do not fit.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)


def preset_like(config: BlipConfig) -> str | None:
    """The preset with layers of these sizes, whatever the size of pictures; None if none has."""
    sizes = ("vision_width", "vision_layers", "patch_size", "text_width", "text_layers")
    sizes += ("text_intermediate", "embed_dim")
    for name, known in PRESETS.items():
        if all(getattr(known, size) == getattr(config, size) for size in sizes):
            return name
    return None
