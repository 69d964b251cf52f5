"""An HTTP server on 127.0.0.1 that asks for a query, and for a login where one is given."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def signed_server(files: Mapping[str, bytes], query: str, *, login: str = "", ranges: str = "yes") -> Iterator[str]:
    """Serve bytes by path, and yield HOST:PORT.

    Args:
        query: what must follow the question mark.
        login: ``USER:PASSWORD``.
        ranges: ``yes``, ``no``, or ``lies``: it says that it has ranges and sends all.
    """
    wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, found = self.path.partition("?")
            data = files.get(path)
            if data is None or found != query or self.headers.get("Authorization") != wanted:
                self.send_error(403)
                return
            part = self.headers.get("Range", "")
            if ranges == "yes" and part.startswith("bytes="):
                first, _, last = part.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last or len(data)), len(data) - 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
                data = data[start : end + 1]
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "none" if ranges == "no" else "bytes")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
