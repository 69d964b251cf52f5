"""Sources behind a URL, read from a web server on 127.0.0.1 and from fsspec's file system in memory."""

from __future__ import annotations

import io
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import PixelMeans, results, run
from file_server import head, raw
from pictures import encode, picture

import zoo
from zoo.errors import UserError
from zoo.sources import open_source

pytest.importorskip("aiohttp", reason="fsspec reads https with it")


def png(seed: int) -> bytes:
    return encode(picture(seed=seed), "PNG")


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for shard in sorted(out.glob("embeddings-*.parquet")) for row in pq.read_table(shard).to_pylist()]


def assert_vectors(out: Path, seeds: range) -> None:
    embedder = PixelMeans()
    pixels = np.stack([embedder.preprocessing.pixels(picture(seed=seed)) for seed in seeds])
    np.testing.assert_allclose([r["embedding"] for r in rows(out)], embedder.embed_pixels(pixels), atol=1e-5)


class Web:
    """files: bytes by path. broken: how many requests of a path are answered with 503. sent: bytes, without heads."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.broken: dict[str, int] = {}
        self.sent = 0
        self.url = ""


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server with ranges."""
    site = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data, status = site.files.get(self.path), 200
            if data is None or site.broken.get(self.path, 0):
                site.broken[self.path] = site.broken.get(self.path, 1) - 1
                data, status = b"", 404 if data is None else 503
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            self.send_response(206 if asked and status == 200 else status)
            if asked and status == 200:
                first, last = int(asked[1]), int(asked[2])
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                data = data[first : last + 1]
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{len(site.files.get(self.path, b""))}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                site.sent += len(data)
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()


def tar(n: int, padding: int = 0) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for seed in range(n):
            for name, data in (
                (f"{seed}.png", png(seed)),
                (f"{seed}.cls", b"%d" % seed),
                (f"{seed}.bin", bytes(padding)),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_list_of_urls_with_a_broken_server(web: Web, tmp_path: Path) -> None:
    for seed in range(6):
        web.files[f"/a/{seed}.png"] = png(seed)
    web.broken["/a/2.png"] = 1
    web.broken["/a/3.png"] = 1_000_000
    web.files["/list.csv"] = b"path,label\n" + "".join(f"a/{n}.png,{n}\n" for n in range(5)).encode()
    result = run(f"{web.url}/list.csv", tmp_path / "out", keep=["label"])
    assert result.failed == {"io-error": 1}, "tried again, and given up"
    assert "503" in result.failures[0][2]
    assert "127.0.0.1" not in result.failures[0][2]
    web.broken.clear()
    result = run(f"{web.url}/list.csv", tmp_path / "out", keep=["label"], update=True)
    assert (result.failed, result.reused) == ({}, 4)
    assert [(row["path"], row["label"]) for row in rows(tmp_path / "out")] == [(f"a/{n}.png", n) for n in range(5)]
    assert_vectors(tmp_path / "out", range(5))
    (tmp_path / "urls.txt").write_text("".join(f"{web.url}/a/{n}.png\n" for n in range(6)))
    run(tmp_path / "urls.txt", tmp_path / "urls")
    assert rows(tmp_path / "urls")[0]["path"] == f"{web.url}/a/0.png"
    assert_vectors(tmp_path / "urls", range(6))
    with pytest.raises(UserError, match="cannot read"):
        run(f"{web.url}/absent.csv", tmp_path / "none")


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.csv", "a-*.tar", "a.jpg", "*.jpg", "a/"])
def test_a_server_that_does_not_answer_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*http://127\.0\.0\.1:1/[^\n]*[Cc]onnect[^\n]*$"):
        run(f"http://127.0.0.1:1/{name}", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_one_image_behind_a_url(web: Web, tmp_path: Path) -> None:
    web.files["/a/0.png"] = png(0)
    web.broken["/a/0.png"] = 1
    run(f"{web.url}/a/0.png", tmp_path / "out")
    assert [row["path"] for row in rows(tmp_path / "out")] == ["0.png"]
    assert_vectors(tmp_path / "out", range(1))
    with pytest.raises(UserError, match=rf"^cannot list {web.url}/a/9\.png \(404[^\n]*$"):
        run(f"{web.url}/a/9.png", tmp_path / "none")


def test_tars_and_parquet_are_read_by_ranges_where_they_lie(web: Web, tmp_path: Path) -> None:
    web.files["/t/a-0.tar"] = tar(4, padding=400_000)
    run(f"{web.url}/t/a-{{0..0}}.tar", tmp_path / "tar", keep=["cls"], shard_size=4)
    assert [row["path"] for row in rows(tmp_path / "tar")] == [f"a-0.tar/{n}.png" for n in range(4)]
    assert_vectors(tmp_path / "tar", range(4))
    before = results(tmp_path / "tar")
    (tmp_path / "tar" / "embeddings-00000.parquet").unlink()
    run(f"{web.url}/t/a-{{0..0}}.tar", tmp_path / "tar", keep=["cls"], shard_size=4)
    assert results(tmp_path / "tar") == before
    web.files["/t/a-0.tar"] += bytes(10240)
    assert run(f"{web.url}/t/a-{{0..0}}.tar", tmp_path / "tar", keep=["cls"], shard_size=4).reused == 4
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [png(n) for n in range(7)], "id": range(7)}), buffer, row_group_size=3)
    web.files["/p.parquet"] = buffer.getvalue()
    run(f"{web.url}/p.parquet", tmp_path / "parquet", keep=["id"])
    assert [row["id"] for row in rows(tmp_path / "parquet")] == list(range(7))
    assert_vectors(tmp_path / "parquet", range(7))


def test_a_folder_and_a_glob_of_an_object_store(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for seed, name in enumerate(["a/0.png", "a/1.png", "b/2.png", "b/notes.txt"]):
        memory.pipe(f"/bucket/{name}", png(seed))
    try:
        result = run("memory://bucket/", tmp_path / "folder")
        assert (result.ok, result.other_files) == (3, 1)
        assert [row["path"] for row in rows(tmp_path / "folder")] == ["a/0.png", "a/1.png", "b/2.png"]
        assert_vectors(tmp_path / "folder", range(3))
        run("memory://bucket/*/*.png", tmp_path / "glob")
        assert [row["path"] for row in rows(tmp_path / "glob")] == ["a/0.png", "a/1.png", "b/2.png"]
        memory.pipe("/bucket/b/2.png", png(9))
        memory.rm("/bucket/a/0.png")
        with pytest.raises(UserError, match=r"1 file changed \(first 'b/2.png'\), 1 file removed"):
            run("memory://bucket/", tmp_path / "folder")
    finally:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]
    with pytest.raises(UserError, match="no image in memory://bucket/"):
        run("memory://bucket/", tmp_path / "none")
    with pytest.raises(UserError, match=r"nowhere://a/.*siamese-zoo\[remote\]"):
        run("nowhere://a/", tmp_path / "none")


def test_s3_from_a_server_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="fsspec reads s3:// with it")
    server = pytest.importorskip("moto.server", reason="stands in for the object store").ThreadedMotoServer(port=0)
    import s3fs

    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = s3fs.S3FileSystem(skip_instance_cache=True)
        store.mkdir("photos")
        for seed in range(4):
            store.pipe(f"photos/a/{seed}.png", png(seed))
        store.pipe("photos/t/a-0.tar", tar(4))
        store.pipe("photos/list.csv", b"path,label\na/1.png,7\na/0.png,8\na/9.png,9\n")
        run("s3://photos/a/", tmp_path / "folder")
        run("s3://photos/*/?.png", tmp_path / "glob")
        run("s3://photos/t/a-{0..0}.tar", tmp_path / "tar", keep=["cls"])
        for name in ("folder", "glob", "tar"):
            assert_vectors(tmp_path / name, range(4))
        result = run("s3://photos/list.csv", tmp_path / "list", keep=["label"])
        assert result.failed == {"missing": 1}
        assert [row["label"] for row in rows(tmp_path / "list")] == [7, 8, 9]
        before = results(tmp_path / "folder")
        assert run("s3://photos/a/", tmp_path / "folder").reused == 4
        assert results(tmp_path / "folder") == before
        store.pipe("photos/a/2.png", png(50))
        with pytest.raises(UserError, match=r"1 file changed \(first '2.png'\)"):
            run("s3://photos/a/", tmp_path / "folder")
    finally:
        server.stop()


@pytest.mark.parametrize("images", ["xyz://bucket/images", "file:///nothing/here", "/nothing/here"])
def test_a_source_that_cannot_be_opened_is_refused_before_a_model_is_opened(images: str, tmp_path: Path) -> None:
    opened: list[object] = []
    with pytest.raises(UserError, match=r"Protocol not known: xyz|/nothing/here does not exist"):
        zoo.extract(images, tmp_path / "out", on_open=opened.append)
    assert not opened


@pytest.mark.parametrize(
    ("name", "first"),
    [("list.txt", b"a.png\n"), ("list.csv", b"path\na.png\n"), ("list.jsonl", b'{"path": "a.png"}\n')],
)
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([b"Content-Length: 1000"], b"%s"),
        ([b"Content-Length: " + b"9" * 18], b"%s"),
        ([b"Content-Encoding: gzip", b"Content-Length: 7"], b"notgzip"),
        ([b"Transfer-Encoding: chunked"], b"%x\r\n%s\r\nZZ\r\n"),
    ],
)
def test_a_list_whose_connection_breaks_is_one_line(name: str, first: bytes, headers: list[bytes], body: bytes) -> None:
    # The first line is a good one: whether it arrives before the connection breaks is a matter of time.
    answer = head("200 OK", *headers) + body.replace(b"%x", b"%x" % len(first)).replace(b"%s", first)
    with raw(answer) as address, pytest.raises(UserError, match=rf"cannot read http.*{name}|no readable") as caught:
        open_source(address.removesuffix("file") + name).listing()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("etag", [b"\xff", b'"\xe9"'])
def test_a_tag_that_is_no_text_is_a_version(etag: bytes) -> None:
    data = png(1)
    answer = head("200 OK", b"ETag: " + etag, b"Content-Length: %d" % len(data), b"Connection: close") + data
    with raw(answer) as address:
        source = open_source(address.removesuffix("file") + "a.png")
        (row,) = source.listing().files.to_pylist()
        assert row["mtime_ns"] > 0
        assert source.read(row) == data
