"""When shards were made, for the report; no part of the output, which holds no time."""

import contextlib
import json
import os
import uuid
from pathlib import Path

FILE = "throughput.jsonl"


class Times:
    """Lines that any number of processes append to one file.

    Args:
        root: output_dir of the run.
    """

    def __init__(self, root: Path) -> None:
        self.path, self._process = root / FILE, uuid.uuid4().hex[:8]

    def note(self, name: str, pictures: int, begun: float, seconds: float) -> None:
        """Add a finished shard. What cannot be written is not worth stopping for.

        Args:
            name: of the shard.
            pictures: that it holds.
            begun: Unix seconds.
            seconds: that it took, by a clock that nobody sets.
        """
        row = {"shard": name, "pictures": pictures, "begun": round(begun, 3)}
        row |= {"ended": round(begun + seconds, 3), "process": self._process}
        with contextlib.suppress(OSError):
            # One write of a short line in append mode does not mix with those of others.
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, f"{json.dumps(row)}\n".encode())
            finally:
                os.close(file)
