"""Commands as a user starts them, each in a session of its own with everything that it starts."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

import psutil

from tests.ranks import ROOT


def start(words: Sequence[object], **environment: str) -> subprocess.Popen:
    """Start a command from the repository root.

    Args:
        words: program and arguments.
        environment: set beside what the tests have.
    """
    given: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [str(word) for word in words],
        cwd=ROOT,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A test run in the background ignores Ctrl-C, and what it starts would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen, timeout: float) -> str:
    """What it said; ends only when the last process that it started has ended.

    One that takes too long is killed, and the error says what it said.
    """
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        raise AssertionError(f"killed after {timeout:g} s: {kill(process)}") from None


def kill(process: subprocess.Popen) -> str:
    """Kill it and all that it started, whatever process groups they are in; what was said."""
    for one in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(one.pid) == process.pid:
                one.kill()
    return process.communicate()[0]
