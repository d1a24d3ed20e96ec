"""Input shards: files on the disk, or named by URL and fetched for as long as they are in work."""

from dataclasses import dataclass
from pathlib import Path

from engine.capfilt.ledger import digest_of
from engine.config import ConfigError
from engine.data.index import ShardError, index_path, read_index
from engine.data.open_source import filled_ranges
from engine.data.pack import SUFFIX, shards_of
from engine.remote.config import RemoteSection
from engine.remote.store import (
    ABSENT,
    Store,
    TransferError,
    beside,
    file_name,
    is_url,
    local_path,
    said,
)

INDEX = ".index"


@dataclass(frozen=True)
class RemoteShard:
    """A shard that is named by URL.

    Attributes:
        url: of the tar file; its index lies beside it or nowhere.
        store: that it is fetched from.
    """

    url: str
    store: Store

    def __str__(self) -> str:
        return self.url

    def size(self) -> int | None:
        """Bytes, None where the server does not tell.

        Raises:
            TransferError: it is not there, or could not be looked at.
        """
        try:
            return self.store.size(self.url)
        except ABSENT as error:
            raise TransferError(f"{self.url}: cannot be read: {said(error)}") from None

    def fetch(self, folder: Path) -> Path:
        """Copy it and its index into a folder under its own name.

        Raises:
            TransferError: it is not there, or could not be read.
        """
        target = folder / file_name(self.url)
        self._fetch(target)
        try:
            self.store.fetch(beside(self.url, INDEX), index_path(target))
        except ABSENT:
            return target
        if not _whole(target):
            # Bytes changed on the way, or where it comes from. The second time it is what it is.
            self._fetch(target)
        return target

    def _fetch(self, target: Path) -> None:
        try:
            self.store.fetch(self.url, target)
        except ABSENT as error:
            raise TransferError(f"{self.url}: cannot be read: {said(error)}") from None


InputShard = Path | RemoteShard


def name_shards(spec: str | list[str], section: RemoteSection) -> dict[str, InputShard]:
    """Input shards by the name of their output.

    Raises:
        ConfigError: none, one that is missing, or two of one name.
    """
    specs = [local_path(one) for one in ([spec] if isinstance(spec, str) else spec) if one]
    if not specs:
        raise ConfigError("no pairs: set data.train to tar shards")
    named: dict[str, InputShard] = {}
    for name, shard in (pair for one in specs for pair in _named(one, section)):
        if name in named and str(named[name]) != str(shard):
            raise ConfigError(
                f"{named[name]} and {shard} have one name: give each its own output_dir"
            )
        named[name] = shard
    return named


def _named(spec: str, section: RemoteSection) -> list[tuple[str, InputShard]]:
    if not is_url(spec):
        paths = shards_of([spec])
        for path in paths:
            if not path.is_file():
                raise ConfigError(f"{path}: no such file")
        return [(path.stem, path) for path in paths]
    store = Store(spec, section)
    found: list[tuple[str, InputShard]] = []
    for url in filled_ranges(spec):
        one = file_name(url).endswith(SUFFIX) and "*" not in url
        for shard in [url] if one else store.names(url):
            found.append((file_name(shard).removesuffix(SUFFIX), RemoteShard(shard, store)))
    return found


def _whole(shard: Path) -> bool:
    """Whether a shard is what its index says, as far as that says anything."""
    try:
        digest = read_index(shard).digest
    except ShardError:
        return False
    return not digest or digest == digest_of(shard)
