"""A download ends with the right bytes or with one line, whatever the server does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import Server, head, raw, serve

from zoo.errors import UserError
from zoo.hub import http_download as module
from zoo.hub.http_download import download

DATA = os.urandom(300_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKOFF", 0.001)
    monkeypatch.setattr(module, "READ_SECONDS", 0.3)
    monkeypatch.delenv(module.OFFLINE, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve() as running:
        monkeypatch.setenv(module.MIRROR, running.address)
        running.files["/example.org/file"] = DATA
        yield running


URL, PATH = "https://example.org/file", "/example.org/file"


def get(folder: Path, max_bytes: int = 10**6) -> bytes:
    return download(URL, folder / "file.incomplete", max_bytes=max_bytes).read_bytes()


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["drop 100000"],
        ["drop 100000", "drop 200000", "drop 250000"],
        ["drop 100000", "ignore-range"],
        ["drop 100000", "other-range"],
        ["drop 100000", "status 416"],
        ["stall 1000"],
        ["status 503", "status 429", "drop 10"],
        ["redirect /example.org/file"],
    ],
    ids=" ".join,
)
def test_what_may_pass_is_tried_again(server: Server, tmp_path: Path, faults: list[str]) -> None:
    server.faults[PATH] = list(faults)
    told: list[tuple[int, int | None]] = []
    file = download(URL, tmp_path / "file.incomplete", max_bytes=10**6, progress=lambda *now: told.append(now))
    assert file.read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))


def test_a_dropped_download_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.faults[PATH] = ["drop 100000"]
    assert get(tmp_path) == DATA
    assert server.requests == [(PATH, ""), (PATH, "bytes=100000-")]


def test_a_file_that_changed_meanwhile_is_not_mixed(server: Server, tmp_path: Path) -> None:
    server.faults[PATH] = ["drop 100000"]
    other = os.urandom(200_000)

    def change(done: int, total: int | None) -> None:
        server.files[PATH], server.etag = other, '"two"'

    assert download(URL, tmp_path / "file.incomplete", max_bytes=10**6, progress=change).read_bytes() == other


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("html", "is a web page"),
        ("html application/octet-stream", "sent a web page"),
        ("status 404", "answers 404: it may have moved"),
        ("status 403", "answers 403"),
        ("redirect http://example.com/file", "is not https: refused"),
        ("redirect file:///etc/passwd", "is not https: refused"),
        ("endless", "more than the 1,000,000 bytes allowed"),
        ("huge 99999999999", "99,999,999,999 bytes, more than"),
        ("encoded", "was not asked for"),
    ],
)
def test_what_cannot_pass_is_refused_at_once(server: Server, tmp_path: Path, fault: str, message: str) -> None:
    server.faults[PATH] = [fault]
    with pytest.raises(UserError, match=message):
        get(tmp_path)
    assert len(server.requests) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("status 500", "could not be downloaded"),
        ("stall 0", "could not be downloaded"),
        ("drop 0", "could not be downloaded"),
        ("redirect /example.org/file", "redirects more than"),
    ],
)
def test_a_server_that_never_recovers_is_given_up(server: Server, tmp_path: Path, fault: str, message: str) -> None:
    server.faults[PATH] = [fault] * 100
    started = time.monotonic()
    with pytest.raises(UserError, match=message):
        get(tmp_path)
    assert time.monotonic() - started < 10
    assert len(server.requests) <= 6


def test_an_address_that_answers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.MIRROR, "http://127.0.0.1:1")
    with pytest.raises(
        UserError, match=r"ConnectError.*are you offline\? .*`zoo fetch NAME --file FILE`, or set SIAMESE_ZOO_MIRROR"
    ):
        get(tmp_path)


def test_a_slow_trickle_is_a_stall(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", -1.0)
    monkeypatch.setattr(module, "STALL_BYTES", 10**9)
    server.files[PATH] = bytes(900_000)
    with pytest.raises(UserError, match="the server stalls"):
        get(tmp_path)


def test_plain_http_and_offline_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="not https"):
        download("http://example.org/file", tmp_path / "file.incomplete", max_bytes=1)
    monkeypatch.setenv(module.MIRROR, "http://example.org")
    with pytest.raises(UserError, match="not https"):
        get(tmp_path)
    monkeypatch.setenv(module.OFFLINE, "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        get(tmp_path)


def test_a_full_disk_is_one_line(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(UserError, match="disk full while downloading"):
        get(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_killed_process_s_part_is_continued(server: Server, tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from zoo.hub.http_download import download
partial = Path({str(tmp_path)!r}) / "file.incomplete"
download({URL!r}, partial, max_bytes=10**6, progress=lambda done, total: os.kill(os.getpid(), 9))
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -9
    already = (tmp_path / "file.incomplete").stat().st_size
    assert get(tmp_path) == DATA
    assert server.requests[-1] == (PATH, f"bytes={already}-" if already else "")
    module.remove_partial(tmp_path / "file.incomplete")
    assert not list(tmp_path.iterdir())


def test_a_part_without_a_validator_is_not_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.incomplete").write_bytes(b"bytes of an unknown file")
    assert get(tmp_path) == DATA
    assert server.requests == [(PATH, "")]


BEGUN = head("200 OK", b'ETag: "a"', b"Content-Length: 10") + b"abc"
WHOLE = head("200 OK", b"Content-Length: 3") + b"abc"


@pytest.mark.parametrize(
    "location",
    [
        b"http://[",
        b"https://127.0.0.1:abc/x",
        b"https://a\x01b/",
        b"https://a.org/" + b"x" * 70_000,
        b"https://xn--a.\xff\xfe/x",
        b"https://" + b"a" * 70 + b".org/x",
        b"https://127.0.0.1:99999999/x",
        b"file:///etc/passwd",
    ],
)
def test_a_redirect_to_what_is_no_address_is_one_line(location: bytes, tmp_path: Path) -> None:
    answer = head("302 Found", b"Location: " + location, b"Content-Length: 0")
    with raw(answer) as address, pytest.raises(UserError, match=r"no address|not https|cannot be reached") as caught:
        download(address, tmp_path / "file", max_bytes=1000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("etag", [b'"\xe9\xe8"', b'"a\tb"', b"\xff"])
def test_a_validator_that_cannot_be_sent_back_is_not_kept(etag: bytes, tmp_path: Path) -> None:
    with raw(head("200 OK", b"ETag: " + etag, b"Content-Length: 10") + b"abc", WHOLE) as address:
        assert download(address, tmp_path / "file", max_bytes=1000).read_bytes() == b"abc"


@pytest.mark.parametrize("first", [b"\xb2", b"1" * 5000, b"-3", b"x"])
def test_a_range_that_is_no_number_is_another_range(first: bytes, tmp_path: Path) -> None:
    part = head("206 Partial Content", b"Content-Range: bytes " + first + b"-9/10", b"Content-Length: 7") + b"defghij"
    with raw(BEGUN, part, WHOLE) as address:
        assert download(address, tmp_path / "file", max_bytes=1000).read_bytes() == b"abc"


def test_a_part_of_a_file_is_not_the_file(tmp_path: Path) -> None:
    part = head("206 Partial Content", b"Content-Range: bytes 0-2/10", b"Content-Length: 3") + b"abc"
    with raw(part) as address, pytest.raises(UserError, match="promised 10 bytes and sent 3"):
        download(address, tmp_path / "file", max_bytes=1000)
    rest = head("206 Partial Content", b"Content-Range: bytes 3-9/999", b"Content-Length: 7") + b"defghij"
    with raw(BEGUN, rest) as address, pytest.raises(UserError, match="could not be downloaded"):
        download(address, tmp_path / "other", max_bytes=1000)
