"""Scored shards put down beside the next one's scoring: a GPU does not wait for a disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Finishing:
    """A thread that finishes one shard at a time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._under_way: tuple[str, Future[None]] | None = None

    def begin(self, name: str, work: Callable[[], None]) -> None:
        """Let the thread do it; what it did before was waited for."""
        self._under_way = (name, self._thread.submit(work))

    @property
    def name(self) -> str | None:
        """Of the shard that is being finished."""
        return self._under_way and self._under_way[0]

    def look(self) -> None:
        """Raise what the work raised, if it has ended."""
        if self._under_way and self._under_way[1].done():
            self.wait()

    def wait(self) -> None:
        """Wait until it has ended, and raise what it raised."""
        if self._under_way:
            (_, future), self._under_way = self._under_way, None
            future.result()

    def close(self) -> None:
        """End the thread, which first ends its work."""
        self._thread.shutdown()
