"""One holder at a time; dead and silent ones are replaced; nobody trusts another's clock."""

import json
import os
import time
from pathlib import Path

import psutil
import pytest

from engine.capfilt import lease as leasing
from engine.capfilt.lease import Lease, Leases

# Seconds.
PATIENCE = 300.0


def others(folder: Path, seconds: float) -> Leases:
    """As another machine would have them."""
    leases = Leases(folder, seconds)
    leases._me = leases._me.replace(leasing.MACHINE.encode(), b"elsewhere")
    return leases


def held_by_a_process_that_ended(folder: Path) -> int:
    """Its number; its end has not been asked about."""
    pid = os.fork()
    if pid == 0:
        Leases(folder, 60).acquire("shard")
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def held_by_a_dead_process(folder: Path) -> None:
    os.waitpid(held_by_a_process_that_ended(folder), 0)


def test_one_has_it_until_it_is_given_back(tmp_path: Path) -> None:
    one, other = others(tmp_path, 60), Leases(tmp_path, 60)
    lease = one.acquire("shard")
    assert lease is not None
    with lease:
        assert not lease.lost
        assert other.acquire("shard") is None
        assert other.acquire("shard.2") is not None
    assert lease.lost
    assert other.acquire("shard") is not None


def test_a_dead_process_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    held_by_a_dead_process(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shard@0"]
    assert Leases(tmp_path, 60).acquire("shard") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["shard@1"]


def test_a_process_whose_end_nobody_asked_about_is_dead(tmp_path: Path) -> None:
    pid = held_by_a_process_that_ended(tmp_path)
    assert Leases(tmp_path, 60).acquire("shard").path.name == "shard@1"
    os.waitpid(pid, 0)


def test_a_silent_holder_is_replaced_whatever_its_clock_says(tmp_path: Path) -> None:
    one, other = others(tmp_path, 60), Leases(tmp_path, 0.3)
    # It shows life when it is told to.
    one.close()
    lease = one.acquire("shard")
    assert isinstance(lease, Lease)
    for clock in (0, 4_000_000_000):
        os.utime(lease.path, (clock, clock))
        assert other.acquire("shard") is None
    time.sleep(0.2)
    lease.touch()
    assert other.acquire("shard") is None
    time.sleep(0.4)
    with other.acquire("shard") as taken:
        assert lease.lost
        assert not taken.lost
        # The loser gives back what is not its own any more.
        lease.__exit__(None, None, None)
        assert taken.path.exists()
    assert not list(tmp_path.iterdir())


def test_a_living_holder_keeps_it(tmp_path: Path) -> None:
    """It shows life by itself, and whoever sees that begins to count anew."""
    one, other = others(tmp_path, 1.0), Leases(tmp_path, 1.5)
    with one.acquire("shard") as lease:
        began, seen, signs = time.monotonic(), None, 0
        while signs < 5 or time.monotonic() - began < 2 * other.seconds:
            assert time.monotonic() - began < PATIENCE, "no sign of life"
            # Signs are further apart than they should be where this process does not run.
            if lease.path.stat().st_mtime_ns != seen:
                assert other.acquire("shard") is None
                ((_, seen), _) = other._seen[lease.path.name]
                signs += 1
            time.sleep(0.01)
        assert not lease.lost
    one.close()
    assert one.seconds / leasing.BEATS < other.seconds / 2


def test_a_holder_shows_life_well_before_others_take_it_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = Leases(tmp_path, 60)
    lease = leases.acquire("shard")
    leases.close()
    passed, signs = [0.0], []

    def wait(seconds: float) -> bool:
        passed[0] += seconds
        return passed[0] > leases.seconds

    monkeypatch.setattr(leases._closed, "wait", wait)
    monkeypatch.setattr(lease, "touch", lambda: signs.append(passed[0]))
    leases._beat()
    assert signs == [12, 24, 36, 48, 60]


def test_a_number_that_another_process_has_by_now_keeps_no_dead_lease(tmp_path: Path) -> None:
    """Numbers are given again; when its process was started tells whose a lease is."""
    leases = Leases(tmp_path, 60)
    holder = json.loads(leases._me) | {"token": "another"}
    (tmp_path / "lives@0").write_text(json.dumps(holder))
    (tmp_path / "died@0").write_text(json.dumps(holder | {"since_boot": holder["since_boot"] - 9}))
    assert leases.acquire("lives") is None
    assert leases.acquire("died").path.name == "died@1"


def test_what_a_process_left_itself_is_no_obstacle_to_it(tmp_path: Path) -> None:
    leases = Leases(tmp_path, 60)
    left = leases.acquire("shard")
    assert leases.acquire("shard").path.name == "shard@1"
    assert left.lost


def test_a_look_that_is_out_of_date_gives_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others took it, and took it over, since the folder was looked at."""
    leases = Leases(tmp_path, 60)
    look = leases._generations

    def before_others_came(name: str) -> list[int]:
        monkeypatch.setattr(leases, "_generations", look)
        found = look(name)
        (tmp_path / "shard@1").touch()
        return found

    monkeypatch.setattr(leases, "_generations", before_others_came)
    assert leases.acquire("shard") is None
    assert [path.name for path in tmp_path.iterdir()] == ["shard@1"]


def test_a_clock_that_is_set_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (waiting, release), (listening, report) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(release)
        Leases(tmp_path, 60).acquire("shard")
        os.write(report, b"1")
        os.read(waiting, 1)
        os._exit(0)
    os.read(listening, 1)
    # As the system tells of it when its clock is set: when it was started is what changes.
    before = psutil.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: before + 100)
    assert Leases(tmp_path, 60).acquire("shard") is None
    os.close(release)
    os.waitpid(pid, 0)
    assert Leases(tmp_path, 60).acquire("shard").path.name == "shard@1"


def test_only_one_of_many_takes_over(tmp_path: Path) -> None:
    held_by_a_dead_process(tmp_path)
    (listening, report), (waiting, release) = os.pipe(), os.pipe()
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            os.close(release)
            won = Leases(tmp_path, 60).acquire("shard") is not None
            os.write(report, b"1" if won else b"0")
            # Lives until all have tried.
            os.read(waiting, 1)
            os._exit(0)
        children.append(pid)
    tries = b"".join(os.read(listening, 1) for _ in children)
    os.close(release)
    for pid in children:
        os.waitpid(pid, 0)
    assert sorted(tries) == sorted(b"000001")


@pytest.mark.parametrize("content", [b"", b"{", b'{"machine": 3}'])
def test_a_lease_that_was_never_written_ends_by_silence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "shard@4").write_bytes(content)
    leases = Leases(tmp_path, 0.2)
    assert leases.acquire("shard") is None
    time.sleep(0.3)
    assert leases.acquire("shard").path.name == "shard@5"
