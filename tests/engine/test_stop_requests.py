"""A stop that is asked for is honoured, wherever the main thread is."""

import signal
import subprocess
import sys
import time

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
