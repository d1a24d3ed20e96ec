"""What the demo page is told."""

import ipaddress
from dataclasses import dataclass
from typing import Literal

from engine.config import ConfigError
from engine.ranges import BATCH, COUNT, SIDE, Range, out_of_range

RANGES = {
    "port": Range(0, 65535),
    "samples": Range(0, 20),
    "num_beams": Range(1, 20),
    "results": Range(1, 200),
    "waiting": Range(0, 1000),
    "image_size": SIDE,
    "batch_size": BATCH,
    "max_upload_bytes": COUNT,
    "max_pixels": COUNT,
    "receive_seconds": Range(0, 86_400, open_low=True),
}


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """A page to try a model on.

    Args:
        model: BLIP weights (run folder, original .pth, Hugging Face folder or name), or a list of
            them; each thing is done by the first that can.
        folder: pictures to search by text (folder at any depth, shards), or null.
        host: address to listen on; this machine alone by default.
        port: to listen on; 0 takes a free one.
        open_to_network: allow a host that other machines can reach. They can then use the models
            and see the folder's pictures; nothing is encrypted.
        prompt: that captions begin with; null takes what the captioning run was evaluated with,
            and for weights of another origin BLIP's own.
        num_beams: of the caption that is searched.
        samples: captions drawn from the nucleus beside it.
        results: pictures that a search shows.
        attention_layer: whose cross-attention is shown, from 0; null takes the middle one.
        waiting: requests that may wait for the one in work; more are told to come back.
        max_upload_bytes: larger pictures are refused before they are read.
        max_pixels: larger pictures are refused before they are decoded.
        receive_seconds: that a request may take to arrive.
        batch_size: pictures of the folder a forward pass.
        device: `auto`, `cpu` or `cuda`.
        image_size: side of the square picture in pixels; null keeps what the weights were made for.
        vocabulary: folder or vocab.txt of the BERT vocabulary; null looks in installed packages.
    """

    model: str | list[str] | None = None
    folder: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    open_to_network: bool = False
    prompt: str | None = None
    num_beams: int = 3
    samples: int = 3
    results: int = 12
    attention_layer: int | None = None
    waiting: int = 8
    max_upload_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    receive_seconds: float = 20.0
    batch_size: int = 32
    device: Literal["auto", "cpu", "cuda"] = "auto"
    image_size: int | None = None
    vocabulary: str | None = None

    def __post_init__(self) -> None:
        problem = out_of_range(self, RANGES)
        if problem:
            raise ConfigError(problem)
        if not self.models or not all(self.models):
            raise ConfigError("no model: set --model to a run folder or weights")
        if not is_local(self.host) and not self.open_to_network:
            raise ConfigError(
                f"host {self.host}: other machines could use the demo and see its pictures; "
                "add --open_to_network true if they may"
            )

    @property
    def models(self) -> list[str]:
        """Their places, in the order given."""
        if isinstance(self.model, list):
            return self.model
        return [self.model] if self.model else []


def is_local(host: str) -> bool:
    """Whether an address to listen on is this machine's own, which no other can reach.

    Raises:
        ConfigError: it is no address.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"host {host}: no IP address; 127.0.0.1 is this machine") from None
