"""Files by URL: read whole, written whole, with retries.

Object stores through fsspec, http(s) by `web`. A store is asked for sizes, to fetch, and to put; it
need not rename, and nothing rests on that it does.
"""

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from engine.config import ConfigError
from engine.remote.config import RemoteSection
from engine.remote.web import AddressError, Web

log = logging.getLogger(__name__)
WEB = ("http", "https")
# Nothing that executes, and no chains of protocols (`simplecache::`).
STORES = ("s3", "gs", "gcs", "az", "abfs", "file")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
LONGEST_WAIT = 60.0
# The disk that is read to has no room: nothing of the store.
FULL = (errno.ENOSPC, errno.EDQUOT)
# Object stores that may not list say "forbidden" of what is not there.
ABSENT = (FileNotFoundError, PermissionError)
Result = TypeVar("Result")


class TransferError(ConfigError):
    """A file that could not be read or written by URL: says nothing about what is in it."""


def is_url(place: str) -> bool:
    """Whether a place is no path."""
    return "://" in place or "::" in place


def local_path(place: str) -> str:
    """`file:///data/pairs` -> `/data/pairs`; everything else as it is."""
    return place.removeprefix("file://") if place.startswith("file:///") else place


def beside(url: str, ending: str) -> str:
    """The URL of a file whose name is longer by `ending`; what a `?` begins stays behind it."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path + ending).geturl()


def file_name(url: str) -> str:
    """`s3://bucket/pairs/00000.tar` -> `00000.tar`; what a `?` begins does not count."""
    return PurePosixPath(urlsplit(url).path).name


class Store:
    """Files below one protocol.

    Args:
        url: any of them.
        section: retries and what is allowed.

    Raises:
        ConfigError: a protocol that is not allowed, or whose package is missing.
    """

    def __init__(self, url: str, section: RemoteSection) -> None:
        self.section = section
        scheme, chain = urlsplit(url).scheme, "::" in url
        if chain or scheme not in (*WEB, *STORES):
            known = ", ".join(f"{name}://" for name in (*STORES, *WEB))
            raise ConfigError(f"{url}: not a place that is read or written; known are {known}")
        if "@" in urlsplit(url).netloc and scheme in WEB:
            # It would stand in logs and in the saved settings.
            raise ConfigError(f"{scheme}://...: a URL with a name and a password is refused")
        self._web = Web(section.allow_private, section.timeout) if scheme in WEB else None
        self._files: Any = None
        if self._web is None:
            try:
                settings = {"auto_mkdir": True} if scheme == "file" else {}
                self._files = fsspec.filesystem(scheme, **settings)
            except ImportError:
                package = PACKAGES[scheme]
                problem = f"{scheme}:// needs the package {package}: pip install {package}"
                raise ConfigError(f"{url}: {problem}") from None

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there."""
        return self._web is not None

    def names(self, pattern: str) -> list[str]:
        """URLs that a glob stands for, or the shards of a folder, in order.

        Raises:
            ConfigError: none there, or web servers, which do not tell.
            TransferError: it could not be looked.
        """
        if self._web is not None:
            raise ConfigError(f"{pattern}: web servers list no files; name each, or a range")
        scheme = urlsplit(pattern).scheme
        if not pattern.endswith(".tar"):
            pattern = pattern.rstrip("/") + "/*.tar"
        try:
            found = self._try("listed", pattern, lambda: self._files.glob(pattern))
        except ABSENT as error:
            raise TransferError(f"{pattern}: cannot be listed: {said(error)}") from None
        if not found:
            raise ConfigError(f"{pattern}: no file matches")
        return sorted(f"{scheme}://{name.lstrip('/')}" for name in found)

    def size(self, url: str) -> int | None:
        """Bytes of a file, None where a web server does not tell.

        Raises:
            OSError: there is none (`ABSENT`).
            TransferError: it could not be looked.
        """
        return self._try("read", url, lambda: self._size(url))

    def fetch(self, url: str, target: Path) -> None:
        """Copy a file to the disk, whole.

        Raises:
            OSError: there is none (`ABSENT`).
            TransferError: it could not be read.
        """

        def once() -> None:
            expected = self._size(url)
            if self._web is not None:
                self._web.fetch(url, target, expected)
            else:
                self._files.get_file(url, str(target))
            _compare(expected, target.stat().st_size)

        self._try("read", url, once)

    def put(self, source: Path, url: str) -> None:
        """Copy a file from the disk, and look at what is there then.

        Raises:
            TransferError: it could not be written.
        """

        def once() -> None:
            self._files.put_file(str(source), url)
            _compare(self._size(url), source.stat().st_size)

        try:
            self._try("written", url, once)
        except ABSENT as error:
            raise TransferError(f"{url}: cannot be written: {said(error)}") from None

    def remove(self, url: str) -> None:
        """Delete a file; none there is as good.

        Raises:
            TransferError: it could not be deleted.
        """
        try:
            self._try("deleted", url, lambda: self._files.rm_file(url))
        except FileNotFoundError:
            return

    def _size(self, url: str) -> int | None:
        if self._web is not None:
            return self._web.size(url)
        # What was listed once may have changed.
        self._files.invalidate_cache()
        return self._files.info(url)["size"]

    def _try(self, done: str, url: str, work: Callable[[], Result]) -> Result:
        """Do it, and again where it failed for a reason that may pass."""
        # Signed ones hold a key in their query.
        url = url.partition("?")[0]
        for number in range(self.section.retries + 1):
            try:
                return work()
            except ABSENT:
                raise
            except AddressError as error:
                raise TransferError(f"{url}: cannot be {done}: {error}") from None
            # Every store's package raises its own kinds.
            except Exception as error:
                if done == "read" and getattr(error, "errno", None) in FULL:
                    raise
                if number == self.section.retries:
                    raise TransferError(
                        f"{url}: could not be {done} in {number + 1} tries: {said(error)}; what "
                        "is finished is saved: start again to go on"
                    ) from None
                wait = min(self.section.first_wait * 2**number, LONGEST_WAIT)
                log.warning("%s: %s; once more in %g s", url, said(error), wait)
                time.sleep(wait)
        raise AssertionError("a range of at least one number")


def _compare(expected: int | None, found: int | None) -> None:
    """A transfer that ended early is one that failed."""
    if expected is not None and expected != found:
        raise OSError(f"{found} of {expected} bytes arrived")


def said(error: Exception) -> str:
    """What an error says, in one line without the file's name."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())
