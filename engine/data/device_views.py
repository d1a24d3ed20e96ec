"""Batches whose planned views are made on the device, one batch ahead of the step."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch.utils.data import DataLoader

from engine.data.batch import Batch
from engine.data.device_augment import augmented
from engine.data.planned_view import PlannedViews
from engine.data.view_maker import AHEAD, ViewMaker

log = logging.getLogger(__name__)


class DeviceViews:
    """Completes the batches of a loader, in their order.

    One bad picture fails no batch. Where one that looked whole cannot be decoded there, its slot
    goes the host's way, which makes the view or puts the slot's substitute in its place, and the
    others are decoded on the device again, to the same bits.

    Args:
        loader: of batches with planned views.
        slots: of each batch, in the loader's order; can be gone through more than once.
        remake: a batch anew from its slots, those in some rows by the host.
        device: that the views are made on.
        maker_of: what makes views of some size there.
    """

    def __init__(
        self,
        loader: DataLoader,
        slots: Sequence[list[int]],
        remake: Callable[[list[int], set[int]], Batch],
        device: torch.device,
        maker_of: Callable[[int], ViewMaker],
    ) -> None:
        self.loader, self.slots, self.remake = loader, slots, remake
        self.device, self.maker_of = device, maker_of
        self._warned = False

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        # Loader processes start first: a maker's threads would not live on in them.
        batches = zip(self.loader, self.slots, strict=True)
        self._makers: dict[int, ViewMaker] = {}
        self._waiting: deque[tuple[Batch, list[int]]] = deque()
        for batch, slots in batches:
            self._waiting.append((batch, slots))
            self._start(batch)
            if len(self._waiting) == AHEAD:
                yield self._complete()
        while self._waiting:
            yield self._complete()
        self._makers.clear()

    def _start(self, batch: Batch) -> None:
        """Begin with a batch's views, if any. A maker that fails, at these or at a batch before, is
        let go: what is then not under way is mended when it is taken."""
        if batch.planned is None:
            return
        maker = self._maker(batch.planned.size)
        try:
            maker.start(batch.planned)
        except Exception:  # noqa: BLE001 - a decoder's errors are of any kind
            self._makers.pop(batch.planned.size)

    def _maker(self, size: int) -> ViewMaker:
        """What makes views of this size; those of sizes that no batch waits for are let go."""
        if size not in self._makers:
            waited = {batch.planned.size for batch, _ in self._waiting if batch.planned}
            self._makers = {s: maker for s, maker in self._makers.items() if s in waited}
            self._makers[size] = self.maker_of(size)
        return self._makers[size]

    def _complete(self) -> Batch:
        """The oldest batch, with its views."""
        batch, slots = self._waiting.popleft()
        if batch.planned is None:
            return batch
        maker = self._maker(batch.planned.size)
        try:
            views = maker.take(batch.planned)
        except Exception:  # noqa: BLE001 - as above
            batch, views = self._mended(batch, slots)
        return batch if views is None else self._filled(batch, views)

    def _filled(self, batch: Batch, views: torch.Tensor) -> Batch:
        """Views through their operations, beside those that the host made."""
        planned = batch.planned
        views = augmented(views, planned.operations)
        if len(planned) < len(batch):
            made = batch.image.to(self.device, non_blocking=True)
            others = sorted({*range(len(batch))} - {*planned.rows.tolist()})
            together = views.new_empty((len(batch), *views.shape[1:]))
            for rows, images in ((planned.rows, views), (torch.tensor(others), made)):
                together[rows.to(self.device, non_blocking=True)] = images
            views = together
        return replace(batch, image=views, planned=None)

    def _mended(self, batch: Batch, slots: list[int]) -> tuple[Batch, torch.Tensor | None]:
        """A batch that its maker failed at, anew without what it cannot decode, and its views.

        Raises:
            Exception: it fails at what it decoded alone, so no picture is to blame.
        """
        planned = batch.planned
        # A maker that failed is of no more use, and took those under way with it.
        name = self._makers.pop(planned.size).name
        rows = enumerate(planned.rows.tolist())
        refused = {row for number, row in rows if not self._decodes(planned.alone(number))}
        if not self._warned and refused:
            self._warned = True
            names = ", ".join(batch.key[row] for row in sorted(refused))
            said = "%s did not decode %s; more like it go the host's way unnamed"
            log.warning(said, name, names)
        batch, views = self.remake(slots, refused), None
        if batch.planned is not None:
            maker = self._maker(planned.size)
            maker.start(batch.planned)
            views = maker.take(batch.planned)
        for other, _ in self._waiting:
            if other.planned is not None and other.planned.size == planned.size:
                self._start(other)
        return batch, views

    def _decodes(self, planned: PlannedViews) -> bool:
        maker = self._maker(planned.size)
        try:
            maker.start(planned)
            maker.take(planned)
        except Exception:  # noqa: BLE001 - as above
            self._makers.pop(planned.size)
            return False
        return True
