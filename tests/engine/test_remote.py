"""Files by URL: what is reached, what is refused, and what is tried again."""

import socket
from pathlib import Path

import pytest

from engine.config import ConfigError
from engine.remote.config import RemoteSection
from engine.remote.store import ABSENT, Store, TransferError, beside, file_name, local_path
from tests.remote_files import Pages, bucket, web_server

QUICK = RemoteSection(retries=3, first_wait=0.0, timeout=500.0)
HERE = RemoteSection(retries=3, first_wait=0.0, timeout=500.0, allow_private=True)
CONTENT = bytes(range(256)) * 50


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source.bin").write_bytes(CONTENT)
    return tmp_path / "source.bin"


@pytest.mark.parametrize("part", [False, True])
def test_a_transfer_that_fails_is_tried_again(source: Path, tmp_path: Path, part: bool) -> None:
    with bucket(failures=4, part=part) as store:
        files = Store("s3://pairs", QUICK)
        files.put(source, "s3://pairs/a/file.bin")
        assert len(store.tries) == 4
        assert files.size("s3://pairs/a/file.bin") == len(CONTENT)
        store.failures = 3
        files.fetch("s3://pairs/a/file.bin", tmp_path / "copy")
        assert len(store.tries) == 7
    assert (tmp_path / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [False, True])
def test_a_transfer_that_never_works_is_one_line(source: Path, tmp_path: Path, part: bool) -> None:
    with bucket() as store:
        files = Store("s3://pairs", QUICK)
        files.put(source, "s3://pairs/file.bin")
        store.failures, store.part = -1, part
        why = "6400 of 12800 bytes arrived" if part else "the store does not answer"
        with pytest.raises(TransferError, match=f"could not be read in 4 tries: {why}; what is"):
            files.fetch("s3://pairs/file.bin", tmp_path / "copy")
        with pytest.raises(
            TransferError, match="s3://pairs/other: could not be written in 4 tries"
        ):
            files.put(source, "s3://pairs/other")


def test_what_is_not_there_is_not_tried_again(tmp_path: Path) -> None:
    with bucket() as store:
        files = Store("s3://pairs", QUICK)
        with pytest.raises(ABSENT):
            files.fetch("s3://pairs/none", tmp_path / "copy")
        assert not store.tries
        files.remove("s3://pairs/none")


def test_globs_and_folders_name_shards(source: Path) -> None:
    with bucket():
        files = Store("s3://pairs", QUICK)
        for name in ("b.tar", "a.tar", "a.tar.index", "c.txt"):
            files.put(source, f"s3://pairs/set/{name}")
        assert files.names("s3://pairs/set") == ["s3://pairs/set/a.tar", "s3://pairs/set/b.tar"]
        assert files.names("s3://pairs/*/b*.tar") == ["s3://pairs/set/b.tar"]
        with pytest.raises(ConfigError, match=r"s3://pairs/none/\*.tar: no file matches"):
            files.names("s3://pairs/none/")


@pytest.mark.parametrize(
    "url",
    [
        "pipe:curl x://y",
        "simplecache::s3://pairs/a.tar",
        "zip://a::http://example.org/b.zip",
        "github://owner:name@/a.tar",
        "ftp://example.org/a.tar",
        "shell://ls",
    ],
)
def test_other_protocols_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not a place that is read or written; known are s3://"):
        Store(url, QUICK)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        Store("https://me:secret@example.org/a.tar", QUICK)
    assert "secret" not in str(refused.value)


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="gs:// needs the package gcsfs: pip install gcsfs"):
        Store("gs://pairs/a.tar", QUICK)


def test_a_server_inside_is_not_asked(source: Path, tmp_path: Path) -> None:
    with web_server(source.parent) as url:
        for host in (url, url.replace("127.0.0.1", "localhost")):
            with pytest.raises(TransferError, match="no public address; set remote.allow_private"):
                Store(host, QUICK).fetch(f"{host}/source.bin", tmp_path / "copy")
        assert not Pages.asked
        Store(url, HERE).fetch(f"{url}/source.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_troubles_of_a_server(source: Path, tmp_path: Path) -> None:
    with web_server(source.parent) as url:
        files = Store(url, HERE)
        Pages.troubles[:] = [(503, {}), (429, {}), (200, {"Content-Length": "7"})]
        files.fetch(f"{url}/source.bin", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == CONTENT
        with pytest.raises(ABSENT):
            files.fetch(f"{url}/none", tmp_path / "copy")
        Pages.troubles[:] = [(302, {"Location": "/source.bin"})]
        files.fetch(f"{url}/source.bin", tmp_path / "copy")
        for elsewhere in (f"file://{source}", "ftp://127.0.0.1/source.bin"):
            Pages.troubles[:] = [(302, {"Location": elsewhere})]
            with pytest.raises(TransferError, match="cannot be read: the server "):
                files.fetch(f"{url}/source.bin", tmp_path / "other")
            assert not (tmp_path / "other").exists()
        Pages.troubles[:] = [(400, {})]
        with pytest.raises(TransferError, match="cannot be read: the server says 400"):
            files.fetch(f"{url}/source.bin", tmp_path / "other")


@pytest.mark.parametrize("status", [403, 405])
def test_a_file_that_may_be_had_and_not_told_of(source: Path, tmp_path: Path, status: int) -> None:
    """A signed URL is often of GET alone."""
    with web_server(source.parent) as url:
        Pages.refusal = status
        files = Store(url, HERE)
        assert files.size(f"{url}/source.bin") == len(CONTENT)
        files.fetch(f"{url}/source.bin", tmp_path / "copy")
        with pytest.raises(ABSENT):
            files.size(f"{url}/none")
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_nobody_there_is_one_line() -> None:
    with socket.socket() as silent:
        # Nobody listens there, and nobody else can.
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            TransferError, match="could not be read in 4 tries: .*refused"
        ) as caught:
            Store(url, HERE).size(f"{url}/a.tar?signature=secret")
        assert f"{url}/a.tar:" in str(caught.value)
        assert "secret" not in str(caught.value)


def test_names_of_urls() -> None:
    assert file_name("https://example.org/x/00000.tar?sign=a/b.c") == "00000.tar"
    signed = beside("https://example.org/x/00000.tar?sign=a", ".index")
    assert signed == "https://example.org/x/00000.tar.index?sign=a"
    assert local_path("file:///data/a.tar") == "/data/a.tar"
