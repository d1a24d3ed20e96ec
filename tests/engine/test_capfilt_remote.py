"""Captioning and filtering by URL: the same bytes, and a network that fails is no damaged shard."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.capfilt.folder import IDENTITY
from engine.remote.config import RemoteSection
from engine.remote.store import Store
from tests.capfilt_runs import EACH, SHARDS, clean, from_table, make_world, outcome
from tests.remote_files import Bucket, Pages, bucket, web_server

QUICK = ("--remote.first_wait", 0, "--remote.retries", 2)
NAMES = [f"pairs_0000{number}" for number in range(SHARDS)]

pytestmark = pytest.mark.xdist_group("capfilt_remote")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("world"))
    ended = clean(world, world / "local")
    assert ended.code == 0, ended.err
    return world


def fill(world: Path, index: bool = True) -> None:
    """The input shards into the bucket."""
    store = Store("s3://pairs", RemoteSection())
    for path in sorted((world / "data").iterdir()):
        if index or path.suffix == ".tar":
            store.put(path, f"s3://pairs/in/{path.name}")


def published(under: str = "/pairs/out/") -> dict[str, bytes]:
    found = {name: file.getvalue() for name, file in Bucket.store.items()}
    return {n.removeprefix(under): content for n, content in found.items() if n.startswith(under)}


def by_url(world: Path, output: Path, *more: object) -> object:
    places = ("--data.train", "s3://pairs/in/pairs_{00000..00002}.tar")
    return clean(world, output, *places, "--publish_to", "s3://pairs/out", *QUICK, *more)


def test_by_url_the_bytes_are_the_same_whatever_fails_on_the_way(
    world: Path, tmp_path: Path
) -> None:
    with bucket() as store:
        fill(world)
        store.failures = 3
        ended = by_url(world, tmp_path / "run")
        assert ended.code == 0, ended.err
        assert "cleaned shards are in s3://pairs/out" in ended.err
        local, out = world / "local", published()
        expected = {name for name, digest in outcome(local).items() if digest}
        assert set(out) == expected | {"config.yaml"}
        for name in expected:
            assert out[name] == (local / name).read_bytes(), name
        # The small things stay here too; shards are only there.
        here = outcome(tmp_path / "run")
        assert here == {n: d for n, d in outcome(local).items() if not n.startswith("shards/")}
        assert not list((tmp_path / "run" / ".work").glob("pairs_*"))
        before = len(store.tries)
        again = by_url(world, tmp_path / "run")
        assert "complete, nothing to do" in again.err
        # Whose the place is; then settings, identity and summary.
        assert len(store.tries) == before + 4
        del store.store["/pairs/out/shards/pairs_00001.tar"]
        assert by_url(world, tmp_path / "run").code == 0
        assert published().keys() == out.keys()
        anew = from_table(
            world, tmp_path / "run", tmp_path / "again", "--data.train", "s3://pairs/in"
        )
        assert anew.code == 0, anew.err
        assert outcome(tmp_path / "again") == outcome(local)


def test_from_a_web_server_without_indexes(world: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    for name in NAMES:
        (shown / f"{name}.tar").write_bytes((world / "data" / f"{name}.tar").read_bytes())
    with web_server(shown) as url:
        spec = ("--data.train", f"{url}/pairs_{{00000..00002}}.tar", *QUICK)
        refused = clean(world, tmp_path / "run", *spec)
        assert refused.code == 2
        assert "no public address; set remote.allow_private" in refused.err
        assert not Pages.asked
        Pages.troubles[:] = [(503, {})]
        ended = clean(world, tmp_path / "run", *spec, "--remote.allow_private", "true")
    assert ended.code == 0, ended.err
    assert outcome(tmp_path / "run") == outcome(world / "local")


def refused(transfer: Callable[..., None], part: str) -> Callable[..., None]:
    """A store's transfer that fails for places with this in their names."""

    def transferred(self: Bucket, *places: str, **more: object) -> None:
        if any(part in place for place in places):
            raise OSError("no")
        transfer(self, *places, **more)

    return transferred


@pytest.mark.parametrize(
    ("way", "part", "said"),
    [
        ("get_file", "pairs/in/", "s3://pairs/in/pairs_00000.tar: could not be read in 3 tries"),
        # Nothing is finished that is not there.
        ("put_file", "/shards/", "s3://pairs/out/shards/pairs_00000.tar: could not be written in"),
        ("put_file", "/run.json", "s3://pairs/out/run.json: could not be written in 3 tries"),
    ],
)
def test_a_network_that_fails_is_no_damaged_shard(
    world: Path, tmp_path: Path, way: str, part: str, said: str
) -> None:
    with bucket() as store:
        fill(world)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(store, way, refused(getattr(store, way), part))
            ended = by_url(world, tmp_path / "run")
        assert ended.code == 2
        last = ended.err.splitlines()[-1]
        assert last.startswith(f"error: {said}")
        assert last.endswith("what is finished is saved: start again to go on")
        for left in ("quarantine", "ledger", ".work/leases"):
            assert not list((tmp_path / "run" / left).iterdir())
        # Back again.
        assert by_url(world, tmp_path / "run").code == 0
        assert published()["shards/pairs_00002.tar"]


def test_a_place_of_another_run_and_one_with_purged_pictures_are_left_alone(
    world: Path, tmp_path: Path
) -> None:
    place, sets = tmp_path / "place", "--rule.itm_threshold"
    goes_there = ("--publish_to", place.as_uri())

    def made(output: str, threshold: str) -> object:
        return from_table(world, world / "local", tmp_path / output, *goes_there, sets, threshold)

    assert made("first", "0.3").code == 0
    # The settings name the folder that the run was made in.
    files = [f for f in place.rglob("*") if f.is_file() and f.name not in ("config.yaml", IDENTITY)]
    before = {path: path.read_bytes() for path in files}
    assert len(before) > SHARDS
    other = made("second", "0.4")
    assert other.code == 2
    assert "holds what was made with other settings" in other.err
    assert "itm_threshold 0.3 -> 0.4" in other.err
    # The same run from somewhere else changes no byte.
    assert made("third", "0.3").code == 0
    assert {path: path.read_bytes() for path in before} == before
    (place / "purged.jsonl").write_text('{"uid": "1"}\n')
    again = made("first", "0.3")
    assert again.code == 2
    assert "pictures were purged there and would come back" in again.err
    (place / "purged.jsonl").unlink()
    # Of a process that was killed in its first moment.
    (place / IDENTITY).write_text("{")
    assert made("first", "0.3").code == 0
    assert made("second", "0.4").code == 2
    assert {path: path.read_bytes() for path in before} == before


def test_a_missing_shard_and_a_damaged_one(world: Path, tmp_path: Path) -> None:
    with bucket() as store:
        fill(world)
        del store.store["/pairs/in/pairs_00002.tar"]
        ended = by_url(world, tmp_path / "run")
        assert ended.code == 2
        assert "error: s3://pairs/in/pairs_00002.tar: cannot be read: " in ended.err
        assert len(list((tmp_path / "run" / "ledger").iterdir())) == SHARDS - 1
        whole = (world / "data" / "pairs_00002.tar").read_bytes()
        store("s3").pipe_file("s3://pairs/in/pairs_00002.tar", whole[:3000])
        del store.store["/pairs/in/pairs_00002.tar.index"]
        assert by_url(world, tmp_path / "run").code == 0
        line = published()["quarantine/pairs_00002.jsonl"].decode()
        assert '"reason": "pairs_00002.tar: truncated at byte' in line
        store("s3").pipe_file("s3://pairs/in/pairs_00002.tar", whole)
        assert by_url(world, tmp_path / "run").code == 0
        assert "quarantine/pairs_00002.jsonl" not in published()
        assert len(published()["shards/pairs_00002.tar"]) > EACH * 512


def test_a_shard_that_changed_on_the_way_is_fetched_again(world: Path, tmp_path: Path) -> None:
    with bucket() as store:
        fill(world)
        fetch, count = store.get_file, []

        def flipping(self: Bucket, rpath: str, lpath: str, **more: object) -> None:
            fetch(self, rpath, lpath, **more)
            count.append(rpath)
            if len(count) == 1:
                content = bytearray(Path(lpath).read_bytes())
                content[700] ^= 1
                Path(lpath).write_bytes(content)

        store.get_file = flipping
        try:
            assert by_url(world, tmp_path / "run").code == 0
        finally:
            store.get_file = fetch
        assert sum(name.endswith("pairs_00000.tar") for name in count) == 2
        assert not any(name.startswith("quarantine") for name in published())


def test_places_that_are_refused(world: Path, tmp_path: Path) -> None:
    for more, said in [
        (("--output_dir", "s3://pairs/out"), "set publish_to to the URL"),
        (("--publish_to", "https://example.org/out"), "web servers are only read from"),
        # Gone with the process.
        (("--publish_to", "memory://out"), "not a place that is read or written"),
        (("--data.train", "pipe:cat x://y.tar"), "not a place that is read or written"),
        (("--data.train", "https://example.org/*.tar"), "web servers list no files"),
    ]:
        ended = clean(world, tmp_path / "run", *more)
        assert ended.code == 2
        assert said in ended.err
