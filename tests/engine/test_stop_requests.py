"""A stop that is asked for is honoured, wherever the main thread is."""

import signal
import subprocess
import sys
import time

import pytest

WAITS = "stopping once what is under way is done and saved; another signal ends at once, unsaved\n"
ASLEEP = """
import signal, time
from engine.training.signals import Interrupted, StopRequest
stop = StopRequest()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
try:
    with stop.interrupting():
        print("asleep", flush=True)
        time.sleep(600)
except Interrupted:
    print("left")
"""


def test_a_wait_is_left_that_the_signal_itself_did_not_wake() -> None:
    # The main thread takes no SIGTERM, so another one does: what comes just before the main thread
    # falls asleep is noted in the same way.
    words = [sys.executable, "-c", ASLEEP]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as asleep:
        assert asleep.stdout.readline() == "asleep\n"
        time.sleep(0.5)
        asleep.send_signal(signal.SIGTERM)
        try:
            assert asleep.communicate(timeout=60) == ("left\n", None)
        finally:
            asleep.kill()
    assert asleep.returncode == 0


BUSY = """
import signal, time
from engine.training.signals import StopRequest
stop = StopRequest()
print("busy", flush=True)
while not stop:
    time.sleep(0.01)
began = time.monotonic()
while time.monotonic() - began < {seconds}:
    pass
"""


@pytest.mark.parametrize(("seconds", "said"), [(0.0, ""), (6.0, WAITS)])
def test_a_stop_that_takes_long_is_answered(seconds: float, said: str) -> None:
    words = [sys.executable, "-c", BUSY.format(seconds=seconds)]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **piped) as busy:
        assert busy.stdout.readline() == "busy\n"
        busy.send_signal(signal.SIGTERM)
        assert busy.communicate(timeout=60) == ("", said)
    assert busy.returncode == 0


LATE = """
import os, signal
from engine.training.signals import STOPPED, StopRequest
from launch.cli import run_main

class Late:
    def __del__(self, kill=os.kill, here=os.getpid(), number=signal.SIGTERM):
        kill(here, number)

late, stop = Late(), StopRequest()
run_main(lambda: STOPPED)
"""


def test_a_signal_while_python_ends_changes_no_exit_code() -> None:
    assert subprocess.run([sys.executable, "-c", LATE], timeout=60, check=False).returncode == 75
