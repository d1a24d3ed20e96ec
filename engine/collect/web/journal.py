"""What became of the rows of the shard in work: a file that is only appended to.

A record is whole or it is not there: each carries its length and a hash, and the first that does
not agree ends what counts. So a process that is killed loses the requests in flight, no other.
"""

import json
import os
import struct
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import xxhash

HEAD = struct.Struct("<IQQ")
# Of a damaged record; no real one has longer facts.
MAX_FACTS = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """What became of a row.

    Attributes:
        row: its number.
        reason: why it yields no picture, "" where it does.
        status: what the http server said last.
        redirects: that were followed.
        tries: that were made.
        source: URL that the picture came from.
        size: bytes of the picture.
        extension: jpg, png or webp.
        width: in pixels.
        height: in pixels.
        look: of the picture, as hexadecimal digits.
        place: where its bytes lie in the journal.
    """

    row: int
    reason: str = ""
    status: int | None = None
    redirects: int = 0
    tries: int = 0
    source: str = ""
    size: int = 0
    extension: str = ""
    width: int = 0
    height: int = 0
    look: str = ""
    place: int = 0


class Journal:
    """Outcomes of rows that somebody was asked for, with the pictures.

    Args:
        path: of the file, which may be left from a launch before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._failure: OSError | None = None
        # Without a buffer: what could not be written must not be tried again by closing the file.
        self._file = path.open("a+b", buffering=0)
        self.outcomes: dict[int, Outcome] = {}
        self._end = self._read()
        self._file.truncate(self._end)

    def _read(self) -> int:
        """Bytes of whole records."""
        size, end = os.fstat(self._file.fileno()).st_size, 0
        handle = self._file.fileno()
        while len(head := os.pread(handle, HEAD.size, end)) == HEAD.size:
            length, content, digest = HEAD.unpack(head)
            place = end + HEAD.size
            if length > MAX_FACTS or place + length + content > size:
                break
            payload = os.pread(handle, length + content, place)
            if xxhash.xxh3_64_intdigest(payload) != digest:
                break
            outcome = Outcome(**json.loads(payload[:length]))
            self.outcomes[outcome.row] = replace(outcome, place=place + length)
            end = place + length + content
        return end

    def add(self, outcome: Outcome, content: bytes) -> None:
        """One more row, and its picture (b"" for none).

        Raises:
            OSError: it could not be written; what is there stays whole.
        """
        facts = json.dumps(asdict(outcome)).encode()
        payload = facts + content
        head = HEAD.pack(len(facts), len(content), xxhash.xxh3_64_intdigest(payload))
        with self._lock:
            if self._failure is not None:
                raise self._failure
            place = self._end + HEAD.size + len(facts)
            try:
                self._write(head + payload)
            except OSError as error:
                # A record behind half of one would not be found again.
                self._failure = error
                raise
            self._end = place + len(content)
            self.outcomes[outcome.row] = replace(outcome, place=place)

    def _write(self, record: bytes) -> None:
        rest = memoryview(record)
        while rest:
            rest = rest[self._file.write(rest) :]

    def content(self, outcome: Outcome) -> bytes:
        """The picture of a row."""
        return os.pread(self._file.fileno(), outcome.size, outcome.place)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()
