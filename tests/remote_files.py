"""Places by URL for tests: an object store that fails when told to, and a web server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """What `s3://` means in a test: files in this process's memory.

    Attributes:
        failures: so many of the next transfers fail; a negative number stands for all.
        part: a transfer that fails leaves half of the file before.
    """

    protocol = ("s3",)
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    cachable = False
    failures = 0
    part = False
    tries: list[str] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("s3://"))

    def get_file(self, rpath: str, lpath: str, **more: Any) -> None:
        """Fetch, or fail."""
        content = self.cat_file(rpath)
        if self._fails(rpath):
            Path(lpath).write_bytes(content[: len(content) // 2])
            if not self.part:
                raise TimeoutError("the store does not answer")
            return
        Path(lpath).write_bytes(content)

    def put_file(self, lpath: str, rpath: str, **more: Any) -> None:
        """Store, or fail."""
        content = Path(lpath).read_bytes()
        if self._fails(rpath):
            if not self.part:
                raise TimeoutError("the store does not answer")
            content = content[: len(content) // 2]
        self.pipe_file(rpath, content)

    @classmethod
    def _fails(cls, path: str) -> bool:
        cls.tries.append(path)
        cls.failures -= cls.failures > 0
        return cls.failures != 0


@contextmanager
def bucket(failures: int = 0, part: bool = False) -> Iterator[type[Bucket]]:
    """An empty store behind `s3://` whose first transfers fail: one fewer than `failures`."""
    Bucket.store.clear()
    Bucket.tries.clear()
    Bucket.failures, Bucket.part = failures, part
    fsspec.register_implementation("s3", Bucket, clobber=True)
    try:
        yield Bucket
    finally:
        fsspec.register_implementation("s3", "s3fs.S3FileSystem", clobber=True)


class Pages(SimpleHTTPRequestHandler):
    """Files of a folder; `troubles` answers come first."""

    troubles: list[tuple[int, dict[str, str]]] = []
    asked: list[str] = []
    # What HEAD is answered, where it is refused.
    refusal: int | None = None

    def do_HEAD(self) -> None:
        if self.refusal is None:
            super().do_HEAD()
        else:
            self.send_response(self.refusal)
            self.end_headers()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.command == "GET" and self.troubles:
            status, headers = self.troubles.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """URL of a server on this machine that shows a folder."""
    Pages.troubles.clear()
    Pages.asked.clear()
    Pages.refusal = None
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
