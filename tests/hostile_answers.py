"""What a server may answer that no server should, and the reason that stands for it then."""

import gzip
import io
import select
import socket
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.nasty import PLAIN, with_scans
from tests.shards import bomb, picture

Send = Callable[[socket.socket, "Request"], None]
GOOD = picture(3, 96)


class Request:
    """What a client asks for."""

    def __init__(self, head: bytes, visit: int) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.path = lines[0].split(" ")[1]
        self.host = next((x[6:] for x in lines if x.lower().startswith("host: ")), "")
        self.visit = visit


def pattern(number: int, side: int = 64, form: str = "PNG") -> bytes:
    """A picture that looks like no other number's: colours in 8 x 8 fields."""
    fields = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
    return encoded(Image.fromarray(fields).resize((side, side), Image.Resampling.BOX), form)


def answer(body: bytes, *headers: str, code: str = "200 OK", length: int | None = None) -> Send:
    """An answer that is in order, but for what is said otherwise."""

    def send(connection: socket.socket, _: Request) -> None:
        size = len(body) if length is None else length
        lines = [f"HTTP/1.1 {code}", f"Content-Length: {size}", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode("latin-1") + body)

    return send


def raw(content: bytes) -> Send:
    """These bytes."""
    return lambda connection, _: connection.sendall(content)


def status(code: int, *headers: str) -> Send:
    """An answer without a picture."""
    return answer(b"<html>", *headers, code=f"{code} Whatever")


def redirect(to: str, code: int = 302) -> Send:
    """Elsewhere; `PORT` is our own."""

    def send(connection: socket.socket, request: Request) -> None:
        place = to.replace("PORT", request.host.partition(":")[2])
        answer(b"", f"Location: {place}", code=f"{code} Found")(connection, request)

    return send


def at_first(first: Send, then: Send, times: int = 1) -> Send:
    """Another answer to the first visits."""
    return lambda c, request: (first if request.visit <= times else then)(c, request)


def endless(head: bytes, part: bytes) -> Send:
    """Without an end, as fast as it goes."""

    def send(connection: socket.socket, _: Request) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(part)

    return send


def drip(head: bytes, part: bytes) -> Send:
    """Until the client leaves, a little every 20 ms: never silent for long."""

    def send(connection: socket.socket, _: Request) -> None:
        connection.sendall(head)
        # All of the request has been read: what comes now is its end.
        while not select.select([connection], [], [], 0.02)[0]:
            connection.sendall(part)

    return send


def reset(connection: socket.socket, _: Request) -> None:
    """Half of a picture, then RST."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(GOOD)}\r\n\r\n".encode()
    connection.sendall(head + GOOD[: len(GOOD) // 2])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> Send:
    """Transfer in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in chunks)
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + end)


def encoded(image: Image.Image, form: str) -> bytes:
    """A picture file."""
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def tagged(*values: str) -> Send:
    """A good picture with headers for robots."""
    return answer(GOOD, *(f"X-Robots-Tag: {value}" for value in values))


OK = b"HTTP/1.1 200 OK\r\n"
JPEG = encoded(Image.effect_noise((96, 96), 80), "JPEG")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<html><script>alert(1)</script></html>"
MANY = "\r\n".join(f"X-{n}: y" for n in range(200))
SECOND = (b"Content-Length: %d\r\n" % len(GOOD), b"Content-Length: 7\r\n")
# Path -> what it does, and the reason that must stand in the table ("" for a picture).
CASES: dict[str, tuple[Send, str]] = {
    "/endless": (endless(OK + b"\r\n", bytes(1 << 16)), "too_large"),
    "/endless_chunks": (
        endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 999),
        "too_large",
    ),
    "/promises_much": (answer(GOOD, length=1 << 40), "too_large"),
    "/loop": (redirect("/loop"), "too_many_redirects"),
    "/ping": (redirect("/pong"), "too_many_redirects"),
    "/pong": (redirect("/ping"), "too_many_redirects"),
    "/to_private": (redirect("http://10.0.0.1/"), "private_address"),
    "/to_metadata": (redirect("http://169.254.169.254/latest/meta-data/"), "private_address"),
    "/to_mapped": (redirect("http://[::ffff:10.0.0.1]/a.png"), "private_address"),
    "/to_number": (redirect("http://0x0a000001/a.png"), "private_address"),
    "/to_file": (redirect("file:///etc/passwd"), "scheme"),
    "/to_ftp": (redirect("ftp://127.0.0.1/a.png"), "scheme"),
    "/to_data": (redirect("data:image/png;base64,AAAA"), "scheme"),
    "/to_javascript": (redirect("javascript:alert(1)"), "scheme"),
    "/to_user": (redirect("http://me:secret@127.0.0.1:PORT/good"), "bad_url"),
    "/to_nowhere": (status(302), "http_status"),
    "/to_good": (redirect("/good"), ""),
    "/to_host": (redirect("http://other.test:PORT/good"), ""),
    "/gzip_bomb": (answer(gzip.compress(bytes(1 << 25)), "Content-Encoding: gzip"), "too_large"),
    "/gzip": (answer(gzip.compress(GOOD), "Content-Encoding: gzip"), ""),
    "/gzip_cut": (answer(gzip.compress(GOOD)[:-9], "Content-Encoding: gzip"), "cut_short"),
    "/gzip_not": (answer(GOOD, "Content-Encoding: gzip"), "encoding"),
    "/brotli": (answer(GOOD, "Content-Encoding: br"), "encoding"),
    "/deflate": (answer(zlib.compress(GOOD), "Content-Encoding: deflate"), ""),
    "/pixel_bomb": (answer(bomb(20000, 20000)), "too_many_pixels"),
    "/scan_bomb": (answer(with_scans(PLAIN, 99)), "too_many_scans"),
    "/thin": (answer(encoded(Image.new("RGB", (900, 80)), "PNG")), "too_thin"),
    "/line": (answer(bomb(60000, 1)), "too_thin"),
    "/small": (answer(picture(1, 40)), "too_small"),
    "/typed_as_page": (answer(GOOD, "Content-Type: text/html"), ""),
    "/page.png": (answer(HTML, "Content-Type: image/png"), "wrong_format"),
    "/svg.png": (answer(SVG, "Content-Type: image/png"), "wrong_format"),
    "/gif.png": (answer(encoded(Image.new("L", (99, 99)), "GIF")), "wrong_format"),
    "/names": (answer(GOOD, 'Content-Disposition: attachment; filename="../../x/evil.py"'), ""),
    "/../../etc/evil.png": (answer(GOOD), ""),
    "/huge_header": (answer(GOOD, f"X-Huge: {'y' * 70_000}"), "header_too_large"),
    "/many_headers": (answer(GOOD, MANY), "bad_answer"),
    "/nested_header": (answer(GOOD, "Content-Type: message/rfc822\r\r" * 1900), "bad_answer"),
    "/no_header": (answer(GOOD, "Pragma no-cache", "X-Robots-Tag: noai"), "bad_answer"),
    "/odd_header": (answer(GOOD, "X-Cache Status: HIT", "X-Robots-Tag: noai"), "bad_answer"),
    "/broken_header": (answer(GOOD, "X-Title: a\rb", "X-Robots-Tag: noai"), "bad_answer"),
    "/endless_header": (endless(OK, b"X: y\r\n" * 99), "bad_answer"),
    "/endless_continue": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "header_too_large"),
    "/garbage": (raw(b"\x00\xff\xfe garbage \r\n\r\n"), "bad_answer"),
    "/old": (raw(GOOD), "bad_answer"),
    "/status_words": (raw(b"HTTP/1.1 OK 200\r\n\r\n" + GOOD), "bad_answer"),
    "/silent": (raw(b""), "bad_answer"),
    "/reset": (reset, "reset"),
    "/reset_once": (at_first(reset, answer(GOOD)), ""),
    "/cut": (answer(GOOD[:100], length=len(GOOD)), "cut_short"),
    "/cut_chunk": (chunked(GOOD[:100], end=b""), "cut_short"),
    "/cut_picture": (answer(JPEG[: len(JPEG) // 2]), "truncated"),
    "/chunks": (chunked(GOOD[:50], GOOD[50:]), ""),
    "/chunk_size": (chunked(end=b"zz\r\nabc\r\n"), "cut_short"),
    "/chunk_negative": (chunked(GOOD, end=b"-5\r\nabc\r\n"), "bad_answer"),
    "/both_lengths": (raw(OK + SECOND[0] + b"Transfer-Encoding: chunked\r\n\r\n"), "bad_answer"),
    "/two_lengths": (raw(OK + SECOND[0] + SECOND[1] + b"\r\n" + GOOD), "bad_answer"),
    "/negative": (answer(GOOD, length=-5), "bad_answer"),
    "/length_words": (raw(OK + b"Content-Length: many\r\n\r\n" + GOOD), "bad_answer"),
    "/busy_once": (at_first(status(429, "Retry-After: 0"), answer(GOOD)), ""),
    "/busy": (status(429, "Retry-After: 86400"), "http_status"),
    "/busy_dated": (status(503, "Retry-After: Fri, 31 Dec 2055 23:59:59 GMT"), "http_status"),
    "/unwell_once": (at_first(status(500), answer(GOOD)), ""),
    "/unwell": (status(503), "http_status"),
    "/gone": (status(404), "http_status"),
    "/forbidden": (status(403), "http_status"),
    "/empty": (answer(b""), "empty"),
    "/noai": (tagged("noai"), "opt_out"),
    "/noimageai": (tagged("NoImageAI"), "opt_out"),
    "/noindex": (tagged("max-snippet:5, noindex"), "opt_out"),
    "/noimageindex": (tagged("nofollow", "noimageindex"), "opt_out"),
    "/noml": (tagged("noml"), "opt_out"),
    "/none": (tagged("none"), "opt_out"),
    "/us_noindex": (tagged("otherbot: nofollow, blip-engine: noindex"), "opt_out"),
    "/other_noai": (tagged("otherbot: noai"), "opt_out"),
    "/other_noindex": (tagged("otherbot: noindex, noimageindex"), ""),
    "/unavailable": (tagged("unavailable_after: 25 Jun 2055 15:00:00 PST"), ""),
    "/reserved": (answer(GOOD, "TDM-Reservation: 1"), "opt_out"),
    "/not_reserved": (answer(GOOD, "TDM-Reservation: 0"), ""),
    "/good": (answer(GOOD), ""),
}
SLOW: dict[str, Send] = {
    "/drip": drip(OK + b"Content-Length: 999999\r\n\r\n", b"x"),
    "/drip_header": drip(OK, b"X: y\r\n"),
    "/drip_chunks": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "/mute": drip(b"", b""),
    "/drip_loop": lambda c, r: (time.sleep(0.2), redirect("/drip_loop")(c, r))[0],
}
ENDPOINTS: dict[str, Send] = {path: send for path, (send, _) in CASES.items()} | SLOW
DISALLOW = b"User-agent: *\nDisallow: /private\nAllow: /private/*.open$\n"
ROBOTS: dict[str, Send] = {
    "closed.test": answer(b"User-agent: *\nDisallow: /\n"),
    "partly.test": answer(DISALLOW),
    "named.test": answer(b"User-agent: blip-engine\nDisallow: /\n\nUser-agent: *\nAllow: /\n"),
    "unwell.test": status(503),
    "huge.test": endless(OK + b"\r\n", b"# more\n" * 999),
    "inside.test": redirect("http://10.0.0.1/robots.txt"),
}
