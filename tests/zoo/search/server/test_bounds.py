"""Strangers at the port: connections that say nothing, slow ones, forms, and the headers of every answer."""

from __future__ import annotations

import hashlib
import json
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import PixelMeans, run
from made_collection import clusters, make
from pictures import encode, fill, picture
from test_server_app import Means, Site

from zoo.search.collection import Collection
from zoo.search.index import build, open_index
from zoo.search.server import form_data
from zoo.search.server.host_check import SECURITY_HEADERS
from zoo.search.server.http_protocol import BoundedProtocol
from zoo.search.server.request_limits import RequestLimits
from zoo.search.server.served import ServedCollection
from zoo.search.thumbnails import Thumbnails
from zoo.transforms.unreadable import UnreadableImage

PHOTOS = Path(__file__).parents[4] / "examples" / "photos"


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    made = make(tmp_path_factory.mktemp("served"), clusters(4, 24))
    build(made)
    return made


@pytest.fixture
def start(collection: Collection) -> Iterator[Callable[..., Site]]:
    """Return a function that starts a server with other options."""
    sites: list[Site] = []

    def start_site(**options: Any) -> Site:
        points = np.zeros((4, 2), np.float32)
        embedder = options.pop("embedder", None) or Means()
        sites.append(Site(ServedCollection(collection, open_index(collection), embedder, points, **options)))
        return sites[-1]

    yield start_site
    for one in sites:
        one.stop()


def opened(site: Site) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.port), 20)


def is_dropped(connection: socket.socket) -> bool:
    """Wait for the server's end of a connection."""
    try:
        return connection.recv(10_000) == b""
    except ConnectionResetError:
        return True


def test_silent_connections_make_room(start: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once 256 of them answered everybody else with 503 for as long as they stayed."""
    monkeypatch.setattr(BoundedProtocol, "max_connections", 20)
    site = start()
    silent = [opened(site) for _ in range(30)]
    half = [opened(site) for _ in range(30)]
    for connection in half:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: loc")
    for _ in range(3):
        assert site.request("GET", "/api/collection")[0] == 200
    assert all(is_dropped(connection) for connection in silent)
    for connection in [*silent, *half]:
        connection.close()


def test_connections_at_work_are_not_dropped_for_new_ones(
    start: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "max_connections", 3)
    embedder = Means()
    embedder.wait = threading.Event()
    site = start(embedder=embedder)
    answers: list[int] = []
    data = encode(picture(), "PNG")
    work = [threading.Thread(target=lambda: answers.append(site.request("POST", "/embed", data)[0])) for _ in range(2)]
    for thread in work:
        thread.start()
    assert all(embedder.started.acquire(timeout=20) for _ in work)
    silent = [opened(site) for _ in range(8)]
    assert all(is_dropped(connection) for connection in silent[:6])
    for connection in silent:
        connection.close()
    embedder.wait.set()
    for thread in work:
        thread.join(20)
    assert answers == [200, 200]


HEAD = b"GET /api/collection HTTP/1.1\r\nHost: localhost\r\n"
SLOW_HEADS = {
    "nothing": b"",
    "half a head": HEAD,
    "half a second head": HEAD + b"\r\n" + HEAD,
    "empty lines": b"\r\n\r\n",
}


@pytest.mark.parametrize("sent", SLOW_HEADS.values(), ids=SLOW_HEADS)
def test_a_head_has_some_seconds_in_all(
    start: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Whoever sends a byte now and then gains no time by it."""
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 0.5)
    with opened(start()) as connection:
        connection.sendall(sent)
        dropped = False
        for _ in range(400):
            readable, _, _ = select.select([connection], [], [], 0.05)
            if readable and is_dropped(connection):
                dropped = True
                break
            try:
                connection.sendall(b"x" if sent else b"")
            except OSError:
                dropped = True
                break
        assert dropped


@pytest.mark.parametrize("path", ["GET /api/collection", "GET /nothing", "POST /embed", "POST /api/collection"])
def test_a_body_has_some_seconds_in_all(start: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Of a route that reads none, too: the answer comes at once, and the connection stayed as long as bytes came."""
    monkeypatch.setattr(BoundedProtocol, "request_seconds", 0.5)
    with opened(start(limits=RequestLimits(timeout=30))) as connection:
        connection.sendall(path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        dropped = False
        for _ in range(400):
            readable, _, _ = select.select([connection], [], [], 0.05)
            if readable and is_dropped(connection):
                dropped = True
                break
            try:
                connection.sendall(b"x")
            except OSError:
                dropped = True
                break
        assert dropped


def raw(site: Site, request: bytes) -> tuple[int, dict[str, str]]:
    """Send bytes, and return the status and the headers of what comes back."""
    with opened(site) as connection:
        connection.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(10_000) or b"\r\n\r\n"
    status, *lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return int(status.split()[1]), {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


class Broken(Means):
    def embed_pixels(self, pixels: Any) -> Any:
        raise ZeroDivisionError


REQUESTS = {
    "page": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "no such page": (b"GET /no HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "method": (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "parameter": (b"GET /api/images?start=x HTTP/1.1\r\nHost: localhost\r\n\r\n", 422),
    "host": (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "no http": (b"hello\r\n\r\n", 400),
    "a head too large": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000, 400),
    "http/1.0": (b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
    "websocket": (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    "no image": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nno", 422),
    "too long": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", 413),
}
for origin in (
    b"http://[",
    b"http://[::1",
    b"\xff\xfe",
    b"http://a]b",
    b"//",
    b"x" * 5000,
    b"http://localhost:99999999",
):
    REQUESTS[f"origin {origin[:20]!r}"] = (b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: " + origin + b"\r\n\r\n", 403)
for host in (b"[", b"[::1", b"a]b", b"\xff", b"localhost:x"):
    REQUESTS[f"host {host!r}"] = (b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", 421)
REQUESTS["host b'localhost:x'"] = (REQUESTS["host b'localhost:x'"][0], 200)  # its name is all that is looked at


def test_every_answer_has_the_security_headers(start: Callable[..., Site]) -> None:
    site = start()
    for what, (request, status) in REQUESTS.items():
        found, headers = raw(site, request)
        assert found == status, what
        assert {name: headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS, what
        assert "cache-control" in headers, what


def test_an_error_of_our_own_has_them_too(start: Callable[..., Site]) -> None:
    site = start(embedder=Broken())
    status, body, headers = site.request("POST", "/embed", encode(picture(), "PNG"))
    assert (status, json.loads(body)) == (500, {"detail": "internal error"})
    assert {name: headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_curl_sends_a_form(start: Callable[..., Site], tmp_path: Path) -> None:
    site, photo = start(), PHOTOS / "rocket.jpg"
    plain = site.json("/embed", photo.read_bytes())
    (tmp_path / "other").write_bytes(b"--\r\n\r\n--boundary--\r\n")
    url = f"http://127.0.0.1:{site.port}/embed"

    def curl(*words: str) -> Any:
        done = subprocess.run(["curl", "-s", *words, url], capture_output=True, timeout=60)
        return json.loads(done.stdout)

    if shutil.which("curl"):
        assert curl("-F", f"file=@{photo}") == plain
        assert curl("-F", "note=a photograph", "-F", f'anything=@{photo};filename=";=x"') == plain
        assert "a form with 0 files" in curl("-F", "file=photo.jpg")["detail"]
        assert "a form with 2 files" in curl("-F", f"a=@{photo}", "-F", f"b=@{photo}")["detail"]
        assert "not-an-image" in curl("-F", f"file=@{tmp_path / 'other'}")["detail"]
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + photo.read_bytes()
        + b"\r\n--x--\r\n"
    )
    status, body, _ = site.request("POST", "/embed", form, {"content-type": "multipart/form-data; boundary=x"})
    assert (status, json.loads(body)) == (200, plain)
    for at in (0, 5, 40, 80, 1000, len(form) - 9):
        assert site.request("POST", "/embed", form[:at], {"content-type": "multipart/form-data; boundary=x"})[0] == 422
    for header in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="' + "x" * 99,
    ):
        assert site.request("POST", "/embed", form, {"content-type": header})[0] == 422


def test_a_form_is_bounded_in_its_parts() -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    for body in (
        part * 20 + b"--x--",
        b"--x\r\n" + b"h: 1\r\n" * 5000 + b"\r\n1\r\n--x--",
        b"--x" * 1_000_000,
        b"\r\n--x" * 1_000_000,
    ):
        with pytest.raises(UnreadableImage):
            form_data.file_of(body, "multipart/form-data; boundary=x")


def test_a_list_shows_images_that_were_embedded_and_nothing_else(tmp_path: Path) -> None:
    """A list may name any file. What is no image is not read again, and no altered plan leads elsewhere."""
    images = fill(tmp_path / "images", 3)
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"root:x:0:0")
    names = sorted(path for path in images.rglob("*") if path.is_file())
    listed = [names[0], secret, "/etc/passwd", names[1], "/dev/zero", tmp_path / "nothing.jpg"]
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{path}\n" for path in listed))
    out = tmp_path / "out"
    run(tmp_path / "list.csv", out, embedder=PixelMeans())
    collection = Collection(out)
    thumbnails = Thumbnails(collection, str(tmp_path / "list.csv"))
    for row in (0, 3):
        assert thumbnails.small(row).startswith(b"\xff\xd8")
    for row in (1, 2, 4, 5):
        with pytest.raises(UnreadableImage, match="no embedding"):
            thumbnails.large(row)
    # The same in a table that says that these files are images.
    shard = out / "embeddings-00000.parquet"
    table = pq.read_table(shard)
    lie = {"status": ["ok"] * 6, "sha256": [hashlib.sha256(secret.read_bytes()).hexdigest()] * 6}
    for name, values in lie.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(table, shard)
    thumbnails = Thumbnails(Collection(out), str(tmp_path / "list.csv"))
    for row in range(6):
        with pytest.raises(UnreadableImage):
            thumbnails.small(row)


def test_an_altered_plan_leads_to_no_other_file_and_no_url(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", 3)
    first, other = sorted(path for path in images.rglob("*") if path.is_file())[:2]
    (tmp_path / "list.csv").write_text(f"path\n{first}\n{first}\n")
    out = tmp_path / "out"
    run(tmp_path / "list.csv", out, embedder=PixelMeans())
    plan, shard = out / ".zoo" / "plan.parquet", out / "embeddings-00000.parquet"
    table, rows = pq.read_table(plan), pq.read_table(shard)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    at = rows.schema.get_field_index("sha256")
    pq.write_table(rows.set_column(at, "sha256", pa.array([digest, digest])), shard)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg".encode()
        paths = pa.array([str(other).encode(), url])
        pq.write_table(table.set_column(0, table.schema.field(0), paths), plan)
        thumbnails = Thumbnails(Collection(out), str(tmp_path / "list.csv"))
        for row in range(2):
            with pytest.raises(UnreadableImage, match="the list of images does not name it"):
                thumbnails.small(row)
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_undecodable_images_say_so(tmp_path: Path) -> None:
    """In the page's JSON, with the reason; the picture itself is a 404 that says it too."""
    images = fill(tmp_path / "images", 2)
    (images / "zz.jpg").write_bytes(b"no picture")
    run(images, tmp_path / "out", embedder=Means())
    collection = Collection(tmp_path / "out")
    build(collection)
    points, thumbnails = np.zeros((3, 2), np.float32), Thumbnails(collection, str(images))
    site = Site(ServedCollection(collection, open_index(collection), Means(), points, thumbnails))
    try:
        *_, last = site.json("/api/images")
        assert last["status"] == "not-an-image"
        assert "JPEG" in last["error"]
        status, body, _ = site.request("GET", f"/pictures/{collection.sha256[:16]}/small/{last['row']}")
        assert (status, "not-an-image" in json.loads(body)["detail"]) == (404, True)
        assert b"cannot be read: ${status}" in site.request("GET", "/tiles.js")[1]
    finally:
        site.stop()


def test_what_strangers_send_is_answered_and_not_printed(
    start: Callable[..., Site], capfd: pytest.CaptureFixture[str]
) -> None:
    site = start()
    for what in ("no http", "a head too large", "websocket", "two hosts"):
        assert raw(site, REQUESTS[what][0])[0] == REQUESTS[what][1]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_behind_the_address_is_the_normal_end(photos_out: Path, number: int) -> None:
    command = [sys.executable, "-m", "zoo", "serve", photos_out, "--no-images", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # as in a shell
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.send_signal(number)
            assert (process.communicate(timeout=60)[1], process.returncode) == ("stopped\n", 0)
        finally:
            process.kill()


def test_sigterm_with_an_upload_open_ends_cleanly(photos_out: Path) -> None:
    command = [sys.executable, "-m", "zoo", "serve", photos_out, "--images", PHOTOS, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            assert found is not None
            uploads = [socket.create_connection(("127.0.0.1", int(found[1])), 20) for _ in range(3)]
            for path, upload in zip(("/embed", "/api/search", "/api/collection"), uploads, strict=True):
                upload.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nabc".encode())
            silent = socket.create_connection(("127.0.0.1", int(found[1])), 20)
            assert b" 405 " in uploads[2].recv(1000)  # so the others have arrived, too
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
            assert (process.returncode, said) == (0, "stopped\n")
            for connection in (*uploads, silent):
                connection.close()
        finally:
            process.kill()
