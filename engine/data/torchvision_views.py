"""torchvision's part of a view: a JPEG decoded, by nvJPEG on a GPU; `resize` does the rest.

How far from the definition, in steps of 255: what follows the decoder not at all. nvJPEG's inverse
DCT rounds otherwise than libjpeg's, and torchvision has it widen colours without interpolation:
libjpeg asked for the same is 0.5 from itself in the mean, up to 16 between colours.
Pictures are decoded whole and at their size, so it has no use for `data.fast_views`.
"""

import importlib.util
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from engine.data.fast_view import Box
from engine.data.jpeg_header import colour_sides
from engine.data.planned_view import PlannedViews
from engine.data.view_maker import refuse_another, trial
from kernels import resize
from kernels.transfer import beside

# Pixels that are decoded at once, three bytes each; a batch of larger pictures is several parts.
AT_ONCE = 1 << 26


def by_torchvision(encoded: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """JPEGs [n] uint8 on the host -> [3, H, W] uint8 each, on the device.

    Raises:
        Exception: one of them cannot be decoded.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


class TorchvisionViews:
    """As `ViewMaker`, whose `start` waits for the decoder, but for no step of the GPU.

    Args:
        device: that the views are made on.
        size: of their sides.

    Raises:
        Exception: torchvision cannot decode here, or its views are not the definition's.
    """

    name = "torchvision"
    install = f"pip install the torchvision of PyTorch {torch.__version__.partition('+')[0]}"
    decode = staticmethod(by_torchvision)

    @staticmethod
    def is_installed() -> bool:
        """Whether torchvision is there, of whatever build."""
        return importlib.util.find_spec("torchvision") is not None

    def __init__(self, device: torch.device, size: int) -> None:
        self.device, self.size = device, size
        if device.type == "cuda":
            # torchvision makes its decoder anew for a device that is named otherwise.
            number = torch.cuda.current_device() if device.index is None else device.index
            self.device = torch.device("cuda", number)
        self._under_way: deque[tuple[PlannedViews, Callable[[], torch.Tensor]]] = deque()
        planned, expected = trial(size)
        self.start(planned)
        refuse_another(self.take(planned), expected)

    def start(self, planned: PlannedViews) -> None:
        """As `ViewMaker.start`."""
        self._under_way.append((planned, beside(partial(self._made, planned), self.device)))

    def _made(self, planned: PlannedViews) -> torch.Tensor:
        contents, boxes = planned.contents(), planned.boxes.tolist()
        sides = [colour_sides(memoryview(content)) for content in contents]
        views = []
        for part in parts([width * height for width, height in sides], AT_ONCE):
            encoded = [torch.from_numpy(content) for content in contents[part]]
            views.append(resized(self._decoded(encoded), boxes[part], self.size))
        mirror = planned.mirror.to(self.device).bool()[:, None, None, None]
        made = torch.cat(views)
        return torch.where(mirror, made.flip(3), made)

    def _decoded(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        """[3, H, W] uint8 of each.

        torchvision writes on a third stream, which does not wait for what was to be done with the
        memory that it writes to (its pull request 9606). That memory is this stream's own, and
        nothing is to be done on it once it was waited for.
        """
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return self.decode(encoded, self.device)

    def take(self, planned: PlannedViews) -> torch.Tensor:
        """As `ViewMaker.take`."""
        if not self._under_way or self._under_way[0][0] is not planned:
            raise RuntimeError("not the oldest batch under way")
        _, taken = self._under_way.popleft()
        return taken()


def parts(pixels: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours that have at most so many pixels together, or one that has more."""
    first, together = 0, 0
    for place, count in enumerate(pixels):
        if place > first and together + count > most:
            yield slice(first, place)
            first, together = place, 0
        together += count
    yield slice(first, len(pixels))


def resized(pictures: list[torch.Tensor], boxes: Sequence[Box], size: int) -> torch.Tensor:
    """Pictures [3, H, W] uint8, each cropped to its box -> [N, 3, size, size] uint8."""
    crops = [
        picture[:, top:bottom, left:right].permute(1, 2, 0).flatten()
        for picture, (left, top, right, bottom) in zip(pictures, boxes, strict=True)
    ]
    sides = [(bottom - top, right - left) for left, top, right, bottom in boxes]
    return resize(torch.cat(crops), sides, size)
