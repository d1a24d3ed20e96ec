"""A first SIGTERM or SIGINT asks the run to save and stop; a later one ends it at once.

Under a launcher, which sends signals of its own, only a second Ctrl-C does.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import psutil

STOPPED = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Wakes a wait, and is ignored by all else.
WAKING = signal.SIGURG
# Seconds: what comes so soon after the first belongs to it.
SAME_REQUEST = 1.0
# Seconds from which on somebody may wonder whether a stop was heard.
LONG = 3.0
# Set by DeepSpeed's launcher and by torchrun.
LAUNCHED = ("LOCAL_SIZE", "LOCAL_WORLD_SIZE")
POLL = 0.5


class Interrupted(BaseException):
    """A stop was asked for during a wait that may be long."""


class StopRequest:
    """Whether a signal asked to stop; install it as early as possible."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._interrupts = False
        for number in SIGNALS:
            signal.signal(number, self._receive)
        signal.signal(WAKING, lambda number, _: None)
        # Python runs no handler while the main thread waits for other ranks inside a collective:
        # the second signal is seen by a thread of its own.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # A loader's worker would write its own signals into the same pipe.
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        if "LOCAL_SIZE" in os.environ:
            threading.Thread(target=_stop_when_orphaned, daemon=True).start()

    def __bool__(self) -> bool:
        return self.received is not None

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Leave the block as soon as a stop is asked for.

        Raises:
            Interrupted: when it was, before or inside.
        """
        self._interrupts = True
        try:
            if self:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if self._interrupts:
            self._interrupts = False
            raise Interrupted

    def _watch(self, reader: int) -> None:
        # A Ctrl-C reaches a rank from the terminal; SIGTERM follows, from the launcher and from
        # whoever notices that its command is gone. However late on a busy machine, that is the
        # same request.
        launched = any(name in os.environ for name in LAUNCHED)
        counted = (signal.SIGINT,) if launched else SIGNALS
        first, heard = None, False
        # Until the other end is closed, by whoever goes on without this request.
        while told := os.read(reader, 1):
            (number,) = told
            if number in SIGNALS and not heard:
                heard = True
                threading.Thread(target=self._answer, args=(launched,), daemon=True).start()
            if number not in counted:
                continue
            first = first or time.monotonic()
            if time.monotonic() - first > SAME_REQUEST:
                # Not 75: whether something was saved is not known.
                os._exit(128 + number)
        os.close(reader)

    def _answer(self, launched: bool) -> None:
        # A signal that comes just before the main thread falls asleep, or to another thread, is
        # only noted: the handler would run after the sleep.
        main = threading.main_thread()
        while self._interrupts and main.is_alive():
            signal.pthread_kill(main.ident, WAKING)
            time.sleep(POLL)
        time.sleep(LONG)
        if os.environ.get("RANK", "0") == "0":
            again = "another Ctrl-C" if launched else "another signal"
            line = (
                f"stopping once what is under way is done and saved; {again} ends at once, unsaved"
            )
            print(line, file=sys.stderr, flush=True)


def _stop_when_orphaned() -> None:
    """A SIGTERM that kills the `deepspeed` command is not passed on by it: stop as if it were.

    The command started DeepSpeed's launcher on this machine, which started this process.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(os.getppid())
        command = launcher.ppid()
        while os.getppid() == launcher.pid and launcher.ppid() == command:
            time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)
