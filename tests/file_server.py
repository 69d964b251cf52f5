"""An HTTP server on 127.0.0.1 that serves files with ETag and Range, and misbehaves on request."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What it serves and how.

    Attributes:
        files: bytes by path.
        faults: by path, what to do instead, one for each request in turn; when they are used up it behaves.
        requests: (path, Range header) of all requests so far.
    """

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    etag: str = '"one"'


@contextmanager
def serve() -> Iterator[Server]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    httpd.daemon_threads = True
    server = Server(f"http://127.0.0.1:{httpd.server_port}")
    httpd.described = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        server: Server = self.server.described  # type: ignore[attr-defined]
        asked = self.headers.get("Range", "")
        server.requests.append((self.path, asked))
        faults = server.faults.get(self.path, [])
        fault, _, argument = (faults.pop(0) if faults else "").partition(" ")
        if self.path not in server.files and not fault:
            self._head(404, {"Content-Length": "0"})
            return
        data = server.files.get(self.path, b"")
        start = 0
        if asked and fault != "ignore-range" and self.headers.get("If-Range") == server.etag:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        headers = {"Content-Type": "application/octet-stream", "ETag": server.etag}
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has gone: that is what some tests want
            self._answer(fault, argument, data, start, headers)

    def _answer(self, fault: str, argument: str, data: bytes, start: int, headers: dict[str, str]) -> None:
        if fault == "status":
            self._head(int(argument), {"Content-Length": "0"})
        elif fault == "redirect":
            self._head(302, {"Location": argument, "Content-Length": "0"})
        elif fault == "html":
            page = b"<!DOCTYPE html><html>sign in</html>"
            kind = {"Content-Type": argument or "text/html; charset=utf-8"}
            self._head(200, kind | {"Content-Length": str(len(page))})
            self.wfile.write(page)
        elif fault == "endless":
            self._head(200, headers | {"Connection": "close"})
            while True:
                self.wfile.write(b"\x80" * (1 << 20))
        elif fault == "stall":
            self._body(data[: int(argument)], start, len(data), headers)
            time.sleep(5)
        elif fault == "drop":  # the promised length is never reached
            self._body(data[: int(argument)], start, len(data), headers)
        elif fault == "other-range":
            self._head(206, headers | {"Content-Range": f"bytes 1-{len(data) - 1}/{len(data)}", "Content-Length": "0"})
        elif fault == "encoded":
            self._head(200, headers | {"Content-Encoding": "gzip", "Content-Length": "0"})
        elif fault == "huge":
            self._head(200, headers | {"Content-Length": argument})
        else:
            self._body(data, start, len(data), headers)

    def _body(self, data: bytes, start: int, total: int, headers: dict[str, str]) -> None:
        headers = headers | {"Content-Length": str(total - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self._head(206 if start else 200, headers)
        self.wfile.write(data[start:])
        self.wfile.flush()

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def raw(*answers: bytes) -> Iterator[str]:
    """A server that sends these bytes, the last ones again and again; whatever they are."""
    listening = socket.create_server(("127.0.0.1", 0))
    turns = iter(answers)

    def run() -> None:
        answer = b""
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                answer = next(turns, answer)
                connection.sendall(answer)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/file"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def head(status: str, *lines: bytes) -> bytes:
    """The first part of an answer: its status and headers."""
    return f"HTTP/1.1 {status}\r\n".encode() + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
