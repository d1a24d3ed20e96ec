"""Finished files to where `publish_to` says.

Leases need a folder whose files can be made by one process only, and renamed; object stores are
none. So the run stays in its `output_dir`, and what is finished is copied: a shard's ledger last,
there and here, so that whoever sees it sees a finished shard. A process that is killed before
leaves files that the next one writes again, with the same bytes.
"""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.capfilt.folder import IDENTITY
from engine.config import ConfigError
from engine.data.purge import PURGED
from engine.differences import differences, flat
from engine.remote.config import RemoteSection
from engine.remote.store import ABSENT, Store


class Publisher:
    """Copies files of an output folder to the same places below a URL.

    Args:
        root: the output folder.
        url: where it goes.
        section: retries and what is allowed.

    Raises:
        ConfigError: a place that cannot be written.
    """

    def __init__(self, root: Path, url: str, section: RemoteSection) -> None:
        self.root, self.url = root, url.rstrip("/")
        self.store = Store(url, section)
        if self.store.read_only:
            raise ConfigError(f"publish_to {url}: web servers are only read from")

    def is_taken_by(self, identity: dict[str, Any]) -> bool:
        """Whether this run's files go there already; False where nothing does.

        Args:
            identity: of the run.

        Raises:
            ConfigError: another run's do, or pictures were taken out there, which would come back.
            TransferError: it could not be looked.
        """
        if self.size(self.root / PURGED) is not None:
            raise ConfigError(
                f"publish_to {self.url}: pictures were purged there and would come back: choose "
                f"another place, or delete {PURGED} there if they may"
            )
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.store.fetch(self.at(self.root / IDENTITY), Path(folder, IDENTITY))
            except ABSENT:
                return False
            try:
                theirs = flat(json.loads(Path(folder, IDENTITY).read_bytes()))
            except (ValueError, AttributeError):
                # A process of this run is at it, or was killed.
                return False
        if differing := differences(theirs, flat(identity)):
            raise ConfigError(
                f"publish_to {self.url}: holds what was made with other settings or weights "
                f"({', '.join(differing)}): choose another place"
            )
        return True

    def take(self) -> None:
        """Say there whose files they are, before the first comes.

        Raises:
            TransferError: it could not be written.
        """
        path = self.root / IDENTITY
        self.send([(path, path)])

    def send(self, files: Iterable[tuple[Path, Path]]) -> None:
        """Copy files, in order.

        Args:
            files: where each lies, and its place in the output folder.

        Raises:
            TransferError: one could not be written.
        """
        for source, place in files:
            self.store.put(source, self.at(place))

    def remove(self, place: Path) -> None:
        """Delete a file that an earlier try may have left.

        Raises:
            TransferError: it could not be deleted.
        """
        self.store.remove(self.at(place))

    def size(self, place: Path) -> int | None:
        """Bytes of a file, None where there is none.

        Raises:
            TransferError: it could not be looked.
        """
        try:
            return self.store.size(self.at(place))
        except ABSENT:
            return None

    def at(self, place: Path) -> str:
        """URL of a place in the output folder."""
        return f"{self.url}/{place.relative_to(self.root).as_posix()}"
