"""A connection read against the clock: whoever sends slowly does not hold it for ever."""

import io
import socket
import time

LATE = "the request took too long to arrive"
DRAINED_BYTES, DRAINED_SECONDS = 64_000_000, 2.0


class TimedReading(io.RawIOBase):
    """What a socket receives until a moment, however small the pieces are in which it comes.

    A socket's own timeout begins anew with every byte.

    Args:
        connection: to read from.
        seconds: from now; later reads raise TimeoutError.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        super().__init__()
        self._connection, self._end = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, room: memoryview) -> int:
        """As many bytes as there are, at least one; 0 at the end.

        Raises:
            TimeoutError: the moment is over.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(LATE)
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(room)
        except TimeoutError:
            raise TimeoutError(LATE) from None


def has_left(connection: socket.socket) -> bool:
    """Whether the sender has closed it; what it sent behind its request stays unread.

    One that closes its own side alone cannot be told from one that left, and gets no answer.
    """
    patience = connection.gettimeout()
    connection.settimeout(0)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(patience)


def drain(connection: socket.socket) -> None:
    """Discard what a refused sender still sends: closing at once would reset the connection, and
    the answer would be lost."""
    try:
        connection.shutdown(socket.SHUT_WR)
        reading = TimedReading(connection, DRAINED_SECONDS)
        room, left = bytearray(1 << 16), DRAINED_BYTES
        while left > 0 and (count := reading.readinto(memoryview(room))):
            left -= count
    except OSError:
        # Gone, or not in time: it is closed all the same.
        pass
