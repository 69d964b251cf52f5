from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from browsers import CHROMIUM, PLAYWRIGHT, installed
from extraction_driver import PixelMeans, run
from made_collection import clusters, make
from pictures import encode, fill, picture
from PIL import Image

from zoo.errors import UserError
from zoo.search.collection import Collection
from zoo.search.index import build, open_index
from zoo.search.pca_map import pca_points
from zoo.search.server.app import create_app
from zoo.search.server.request_limits import RequestLimits
from zoo.search.server.serve import _announce, serve, server_config
from zoo.search.server.served import ServedCollection
from zoo.search.thumbnails import Thumbnails

PHOTOS = Path(__file__).parents[4] / "examples" / "photos"


class Means(PixelMeans):
    """An embedder without a network that also has what the server needs, and can be made to wait."""

    normalize = False
    wait: threading.Event | None = None

    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Semaphore(0)

    def embed_pixels(self, pixels: Any) -> Any:
        self.started.release()
        if self.wait is not None:
            self.wait.wait(20)
        return super().embed_pixels(pixels)


class Site:
    """A real server on 127.0.0.1, in a thread."""

    def __init__(self, served: ServedCollection) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(server_config(create_app(served)))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()

    def json(self, path: str, body: Any = None) -> Any:
        status, data, _ = self.request("GET" if body is None else "POST", path, body)
        assert status == 200, data
        return json.loads(data)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._socket.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ServedCollection]:
    """Return a function that makes a ``ServedCollection`` of twenty images and a broken one."""
    root = tmp_path_factory.mktemp("served")
    images = fill(root / "images")
    (images / "zz.jpg").write_bytes(b"no picture")
    run(images, root / "out", embedder=Means(), shard_size=6)
    collection = Collection(root / "out")
    build(collection)

    def make_served(embedder: Any = None, **options: Any) -> ServedCollection:
        return ServedCollection(
            collection,
            open_index(collection),
            embedder or Means(),
            pca_points(collection),
            Thumbnails(collection, str(images)),
            **options,
        )

    return make_served


@pytest.fixture(scope="module")
def site(served: Callable[..., ServedCollection]) -> Iterator[Site]:
    """A server with default limits that tests share."""
    running = Site(served())
    yield running
    running.stop()


@pytest.fixture
def start(served: Callable[..., ServedCollection]) -> Iterator[Callable[..., Site]]:
    """Return a function that starts a server with other options."""
    sites: list[Site] = []

    def start_site(**options: Any) -> Site:
        sites.append(Site(served(**options)))
        return sites[-1]

    yield start_site
    for one in sites:
        one.stop()


def test_routes_of_the_page(site: Site, served: Callable[..., ServedCollection]) -> None:
    collection = served().collection
    about = site.json("/api/collection")
    assert (about["images"], about["indexed"], about["index"], about["pictures"]) == (21, 20, "exact", True)
    assert [(i["row"], i["path"]) for i in site.json("/api/images?start=4&count=5")] == [
        (item.row, item.name) for item in collection.items(4, 5)
    ]
    assert site.json("/api/images?start=20")[0]["status"] == "not-an-image"
    assert site.json("/api/images?start=21") == []
    vectors = np.concatenate([v for _, v in collection.vectors()])[:20].astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors -= vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    right = np.argsort(-vectors @ vectors[3])[:4].tolist()
    assert [n["row"] for n in site.json("/api/neighbours/3?k=4")] == right
    assert site.request("GET", "/api/neighbours/20")[0] == site.request("GET", "/api/neighbours/21")[0] == 404
    name = served().collection.item(3).name
    data = (Path(collection.root).parent / "images" / name).read_bytes()
    found = site.json("/api/search?k=4", data)
    assert [n["row"] for n in found] == right
    assert found[0]["cosine"] == pytest.approx(1, abs=1e-5)
    status, points, _ = site.request("GET", "/api/map")
    assert status == 200
    np.testing.assert_array_equal(np.frombuffer(points, "<f4").reshape(21, 2), pca_points(collection))
    for size, longest in (("small", 240), ("large", 960)):
        status, jpeg, headers = site.request("GET", f"/pictures/{about['version']}/{size}/0")
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        assert "immutable" in headers["cache-control"]
        assert jpeg.startswith(b"\xff\xd8")
        with Image.open(io.BytesIO(jpeg)) as image:
            assert max(image.size) == min(60, longest)  # images are never enlarged
    for address in ("/", "/app.js", "/map.js", "/style.css"):
        status, _, headers = site.request("GET", address)
        assert status == 200
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


def test_a_picture_of_too_many_rows_is_refused_by_its_header(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for width, height in ((1, 64_000_000), (64_000_000, 1), (8, 8_000_000)):
        row = bytes((width + 7) // 8 + 1)
        head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n"
        for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(row * min(height, 1000))), (b"IEND", b"")):
            data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        status, answer, _ = site.request("POST", "/embed", data)
        assert (status, b"too-large" in answer) == (413, True), answer


def test_embed_equals_extract_and_is_in_openapi(site: Site, served: Callable[..., ServedCollection]) -> None:
    collection = served().collection
    data = (Path(collection.root).parent / "images" / collection.item(5).name).read_bytes()
    answer = site.json("/embed", data)
    vectors = np.concatenate([v for _, v in collection.vectors()])
    np.testing.assert_allclose(answer["embedding"], vectors[5], rtol=1e-5)
    assert (answer["dim"], answer["normalize"], answer["model"]) == (24, False, "pixel_means")
    operation = site.json("/openapi.json")["paths"]["/embed"]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/octet-stream", "image/*", "multipart/form-data"}
    assert {"200", "408", "413", "422", "503", "504"} <= set(operation["responses"])
    assert site.request("GET", "/docs")[0] == site.request("GET", "/redoc")[0] == 404


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/pictures/VERSION/small/21", 404),
        ("/pictures/VERSION/small/-1", 422),
        ("/pictures/VERSION/small/99999999999999999999999", 422),
        ("/pictures/VERSION/small/../../../etc/passwd", 404),
        ("/pictures/VERSION/small/%2e%2e%2fsecret.jpg", 404),
        ("/pictures/VERSION/small/00.jpeg", 422),
        ("/pictures/VERSION/small/20", 404),
        ("/pictures/VERSION/huge/0", 422),
        ("/pictures/0000000000000000/small/0", 404),
        ("/../app.js/../server.py", 404),
        ("/static/index.html", 404),
        ("/server.py", 404),
    ],
)
def test_nothing_but_the_collection_can_be_reached(site: Site, path: str, expected: int) -> None:
    path = path.replace("VERSION", site.json("/api/collection")["version"])
    status, body, _ = site.request("GET", path)
    assert status == expected
    assert b"root:" not in body
    assert b"import" not in body


def test_foreign_hosts_and_origins_are_refused(start: Callable[..., Site]) -> None:
    site = start(allowed_hosts=["gallery.example"])
    for host, status in (
        ("127.0.0.1:80", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("Gallery.Example:8000", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("evil.example:80@localhost", 421),
        ("[", 421),
        ("", 421),
    ):
        assert site.request("GET", "/api/collection", headers={"Host": host})[0] == status, host
    data, own = encode(picture(), "PNG"), f"127.0.0.1:{site.port}"
    for origin, status in ((f"http://{own}", 200), ("http://evil.example", 403), ("null", 403)):
        assert site.request("POST", "/embed", data, {"Origin": origin, "Host": own})[0] == status, origin


def test_bytes_and_pixels_are_limited(start: Callable[..., Site]) -> None:
    site = start(limits=RequestLimits(max_bytes=5000, max_pixels=3000))
    assert site.request("POST", "/embed", bytes(5001))[0] == 413
    parts = (bytes(1000) for _ in range(1000))  # no Content-Length
    with suppress(BrokenPipeError, ConnectionResetError):  # the server may close before all is sent
        assert site.request("POST", "/embed", parts)[0] == 413
    assert site.request("POST", "/embed", encode(picture(60, 51), "PNG"))[0] == 413
    for body in (b"", b"no picture", encode(picture(60, 40), "JPEG")[:-200]):
        status, answer, _ = site.request("POST", "/embed", body)
        assert (status, "detail" in json.loads(answer)) == (422, True)
    assert site.request("POST", "/api/search?k=100000", encode(picture(), "PNG"))[0] == 422
    assert site.request("POST", "/embed", encode(picture(60, 40), "PNG"))[0] == 200


def test_a_slow_sender_is_dropped(start: Callable[..., Site]) -> None:
    site = start(limits=RequestLimits(timeout=0.3))
    with socket.create_connection(("127.0.0.1", site.port), 10) as connection:
        connection.sendall(b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        assert b" 408 " in connection.recv(1000)
    assert site.request("POST", "/embed", encode(picture(), "PNG"))[0] == 200


def test_requests_beyond_the_queue_are_answered_503(start: Callable[..., Site]) -> None:
    embedder = Means()
    embedder.wait = threading.Event()
    site = start(embedder=embedder, limits=RequestLimits(timeout=1.5, concurrent=1, queued=2))
    data = encode(picture(), "PNG")
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(site.request("POST", "/embed", data)[0])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert set(answers) <= {503, 504}
    assert answers.count(504) == 3  # one at work, two in the queue
    status, _, headers = site.request("GET", "/api/collection")  # other routes still answer
    assert status == 200
    embedder.wait.set()
    deadline = time.monotonic() + 10
    while (status := site.request("POST", "/embed", data)[0]) == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status == 200
    assert headers["cache-control"] == "no-store"


def test_a_disconnected_client_frees_its_slot(start: Callable[..., Site]) -> None:
    site = start(limits=RequestLimits(concurrent=1, queued=0))
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", site.port), 10) as connection:
            connection.sendall(b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    deadline = time.monotonic() + 10
    while (
        status := site.request("POST", "/embed", encode(picture(), "PNG"))[0]
    ) == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status == 200


def test_a_page_of_many_images_reads_few_of_them(tmp_path: Path) -> None:
    collection = make(tmp_path, clusters(20_000, 2), shard_size=500)
    index = open_index_of(collection)
    site = Site(ServedCollection(collection, index, Means(), np.zeros((20_000, 2), np.float32)))
    try:
        assert [i["row"] for i in site.json("/api/images?start=15480&count=60")] == list(range(15480, 15540))
        assert collection._metadata.cache_info().misses == 2  # the page spans two shards
        assert site.json("/api/collection")["pictures"] is False
        assert site.request("GET", f"/pictures/{collection.sha256[:16]}/small/0")[0] == 404
    finally:
        site.stop()


def open_index_of(collection: Collection) -> Any:
    build(collection, exact=True)
    return open_index(collection)


def test_errors_and_warnings_of_the_command(
    photos_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"listen on 127.0.0.1 port {port} \([^(]*\): choose"):
            serve(photos_out, images=str(PHOTOS), host="127.0.0.1", port=port)
    with pytest.raises(UserError, match="cannot listen on no such host"):
        serve(photos_out, images=str(PHOTOS), host="no such host", port=0)
    with pytest.raises(UserError, match="has no index"):
        serve(make(tmp_path, clusters(3, 4)).root, images=None, host="127.0.0.1", port=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "uvicorn", None)
        with pytest.raises(UserError, match=r"zoo serve needs uvicorn: pip install 'siamese-zoo\[search\]'"):
            serve(photos_out, images=None, host="127.0.0.1", port=0)
    _announce("127.0.0.1", 1, True)
    assert capsys.readouterr().err == ""
    for host in ("0.0.0.0", "::", "192.168.1.5", "gallery.example"):
        _announce(host, 1, True)
        assert "WARNING: whoever reaches this port" in capsys.readouterr().err


@pytest.fixture
def running(photos_out: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of ``zoo serve`` and its URL."""
    command = [sys.executable, "-m", "zoo", "serve", photos_out, "--images", PHOTOS, "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.match(r"(http://127\.0\.0\.1:\d+/)", process.stdout.readline())
        assert found is not None, process.communicate(timeout=10)[1]
        yield process, found[1]
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_the_page_in_a_browser_and_ctrl_c(
    running: tuple[subprocess.Popen[str], str], photos_out: Path, tmp_path: Path
) -> None:
    process, url = running
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    (tmp_path / "node_modules").symlink_to(installed(PLAYWRIGHT))
    shutil.copy(Path(__file__).parent / "drive_page.mjs", tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    shots = os.environ.get("SERVE_SCREENSHOTS", str(tmp_path))
    command = ["node", "drive_page.mjs", url, CHROMIUM, shots, PHOTOS / "flower_dahlia.jpg", "broken.jpg"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    saw = json.loads(done.stdout)
    assert (saw["foreign"], saw["errors"]) == ([], [])
    assert "broken.jpg\u2069: not-an-image" in saw["broken"]
    collection = Collection(photos_out)
    assert saw["about"] == f"24 images · {collection.model} · exact search"
    vectors = np.concatenate([v for _, v in collection.vectors()]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors -= vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [item.name for item in collection.items(0, 24)]
    for shown, row in ((saw["searched"], names.index("flower_dahlia.jpg")), (saw["ofRow"], saw["focused"])):
        cosines = vectors @ vectors[row]
        assert [tile["row"] for tile in shown] == np.argsort(-cosines).tolist()
        assert [tile["cosine"] for tile in shown] == pytest.approx(np.sort(cosines)[::-1], abs=6e-4)
        assert [tile["name"] for tile in shown] == [names[tile["row"]] for tile in shown]
    assert saw["opened"] == "true"
    assert sorted(saw["sample"]) == list(range(24))
    assert saw["sample"] != list(range(24)), "a random order"
    assert saw["thumbnails"] >= 10  # those in view; the rest load lazily
    assert saw["all"] == names
    assert saw["tip"] == names[saw["fromMap"]]
    assert saw["inked"] > 10_000
    assert saw["atNeighbours"] == ["found", saw["left"]]
    assert saw["atPicture"] == ["grid", saw["left"]]
    assert saw["none"] == "none of 24 images matches"
    assert saw["noneOnMap"].startswith("24 images: 0 match.")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (0, "stopped\n")
