"""5,000 pictures from a server on this machine, with a kill in the middle: nothing lost or left."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from engine.data.pack import verify_shards
from tests.hostile_web import hostile_server
from tests.web_collections import (
    PATIENCE,
    Signaller,
    command,
    pairs,
    reasons,
    rows_of,
    write_list,
)

COUNT, WORKERS = 5000, 8
# MiB beyond what Python, Arrow and the counts of captions take before the first request.
MOST_MEMORY = 200


@pytest.mark.slow
def test_five_thousand_pictures(tmp_path: Path) -> None:
    with hostile_server() as server:
        listed = pairs(server, COUNT)
        # Some of each kind of trouble.
        base = listed[0][0].rpartition("/p/")[0]
        for number, path in enumerate(("/gone", "/noai", "/page.png", "/loop", "/reset", "/p/10")):
            for row in range(100 + number, COUNT, 500):
                listed[row] = (
                    f"{base}{path}?{row}" if path != "/p/10" else base + path,
                    f"w {row}",
                )
        source, out = write_list(tmp_path / "l.csv", listed), tmp_path / "out"
        flags = [f"--workers={WORKERS}", "--samples_per_shard=500"]
        server.on_request = killer = Signaller(COUNT // 2, signal.SIGKILL)
        first = killer.start(source, out, *flags)
        first.communicate(timeout=PATIENCE)
        assert first.returncode == -signal.SIGKILL

        memory: list[int] = []
        handles: list[int] = []

        def look(_: object) -> None:
            started.wait()
            watched = psutil.Process(second.pid)
            if len(memory) % 50 == 0:
                handles.append(watched.num_fds())
            memory.append(watched.memory_info().rss >> 20)

        started = threading.Event()
        server.on_request = look
        second = command(source, out, *flags)
        started.set()
        said, _ = second.communicate(timeout=PATIENCE)
        assert second.returncode == 0
    table = rows_of(out)
    assert [row["row"] for row in table] == [*range(COUNT)]
    expected = {"http_status": 10, "opt_out": 10, "wrong_format": 10, "too_many_redirects": 10}
    expected |= {"reset": 10, "copy": 10}
    assert reasons(table) == {**expected, "": COUNT - 60}
    assert len({row["uid"] for row in table}) == COUNT
    assert verify_shards([str(out)]).samples == COUNT - 60
    assert f"{COUNT - 60} of {COUNT} pairs kept" in said
    # Asked for a second time were at most those in flight; /loop and /reset ask by themselves.
    single = {path: n for path, n in server.asked.items() if "/p/" in path and "/p/10" not in path}
    assert sum(single.values()) <= len(single) + WORKERS
    # The first looks may be those of what the killed process had asked for.
    assert max(memory) < memory[WORKERS] + MOST_MEMORY
    # Three journals, the lock, a shard in the making, a connection a thread, and what Python has.
    assert max(handles) < 3 * WORKERS + 32
    left = {path.relative_to(out).parts[0] for path in out.rglob("*") if path.is_file()}
    shards = {f"{n:05d}.tar{end}" for n in range(10) for end in ("", ".index")}
    assert left == {".lock", "settings.json", "summary.json", "table", *shards}
    assert not os.listdir(out / "work")
