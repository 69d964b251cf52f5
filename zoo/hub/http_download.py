"""Downloads one large file over HTTPS: resumed, bounded in time and size, and never half of it under its name.

The only module that opens a connection of our own (huggingface_hub has its own). A server is not trusted: it may
drop, stall, lie about lengths, ignore ranges, answer with a page, redirect to plain http, or never end.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from zoo.errors import UserError
from zoo.system.atomic_files import is_alive, make_folder, move, remove_tree

MIRROR = "SIAMESE_ZOO_MIRROR"  # https://HOST/PATH: files are then asked for at MIRROR/<host of the URL>/<its path>
OFFLINE = "HF_HUB_OFFLINE"
CONNECT_SECONDS = 15.0
READ_SECONDS = 30.0
STALL_SECONDS, STALL_BYTES = 60.0, 1 << 16  # slower than this is a stall, however regularly a byte arrives
ATTEMPTS = 5
_PROGRESS_BYTES = 16 << 20  # so much gained gives a download its attempts back
_BACKOFF = 1.0
_MAX_REDIRECTS = 5
_LOCAL = {"127.0.0.1", "localhost", "::1"}
_BODY, _VALIDATOR = "body", "validator.json"

Progress = Callable[[int, int | None], None]


class _Retry(Exception):
    """Something that may pass; the message says what."""


def is_offline() -> bool:
    """Whether the user forbade the network, by the same variable that huggingface_hub reads."""
    return os.environ.get(OFFLINE, "").upper() in {"1", "ON", "YES", "TRUE"}


def download(url: str, folder: Path, *, max_bytes: int, progress: Progress | None = None) -> Path:
    """Fetches ``url`` into ``folder``; several processes may do so at once, each gets a file of its own.

    What a killed process of this machine left behind is taken over and continued, if the server says that the file
    is still the same.

    Args:
        folder: for files of this URL only.
        max_bytes: more than this is refused.
        progress: called with bytes so far and bytes in all, where the server says how many.

    Returns:
        The finished file, to be moved or removed by the caller together with its folder.

    Raises:
        UserError: offline, refused or not found, a web page instead of a file, too large, a redirect to plain http,
            a full disk, or still no success after ``ATTEMPTS`` attempts without progress.
    """
    if is_offline():
        raise UserError(f"{OFFLINE} is set and {url} is not in the cache: unset it, or convert a local file")
    address = _mirrored(url)
    _require_safe(address, address)
    make_folder(folder)
    place = _take_over(folder) or _new_place(folder)
    attempts, last = ATTEMPTS, "no answer"
    while attempts:
        before = _size(place)
        try:
            with _open_client() as client:
                _continue(client, address, place, max_bytes, progress)
            return place / _BODY
        except _Retry as error:
            last = str(error)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                remove_tree(place)
                raise UserError(f"disk full while downloading {url}: free space and run the same again") from None
            raise
        except UserError:
            remove_tree(place)
            raise
        attempts = ATTEMPTS if _size(place) - before >= _PROGRESS_BYTES else attempts - 1
        if attempts:
            time.sleep(_BACKOFF * 2 ** (ATTEMPTS - 1 - attempts))
    raise UserError(f"{url} could not be downloaded ({last}): run the same again, it goes on where it stopped")


def _mirrored(url: str) -> str:
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    parts = urlsplit(url)
    return f"{mirror}/{parts.netloc}{parts.path}" if mirror else url


def _require_safe(address: str, origin: str) -> None:
    """https, or plain http to this machine if that is where the user asked for the file."""
    parts, first = urlsplit(address), urlsplit(origin)
    if parts.scheme == "https":
        return
    if parts.scheme == "http" and parts.hostname in _LOCAL and first.hostname in _LOCAL:
        return
    raise UserError(f"{address} is not https: refused")


def _open_client() -> Any:
    """An HTTP client of httpx2, or of httpx before huggingface_hub 2; both come with timm."""
    for name in ("httpx2", "httpx"):
        with suppress(ImportError):
            library = import_module(name)
            timeout = library.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
            return library.Client(timeout=timeout, follow_redirects=False)
    raise UserError("downloading needs httpx2: pip install httpx2")


def _continue(client: Any, address: str, place: Path, max_bytes: int, progress: Progress | None) -> None:
    """One attempt: the rest of the file, or all of it."""
    library = import_module(type(client).__module__.partition(".")[0])
    start, validator = _state(place)
    headers = {"Accept-Encoding": "identity", "User-Agent": "siamese-zoo"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        response = _follow(client, address, headers)
        try:
            _receive(response, place, start, max_bytes, progress)
        finally:
            response.close()
    except library.HTTPError as error:  # time-outs, dropped connections, wrong lengths
        raise _Retry(f"{type(error).__name__}: {error}".rstrip(": ")) from None


def _follow(client: Any, address: str, headers: dict[str, str]) -> Any:
    """The response at the end of the redirects, its body not read yet."""
    origin = address
    for _ in range(_MAX_REDIRECTS + 1):
        response = client.send(client.build_request("GET", address, headers=headers), stream=True)
        if response.status_code not in (301, 302, 303, 307, 308):
            return response
        target = urljoin(address, response.headers.get("location", ""))
        response.close()
        _require_safe(target, origin)
        address = target
    raise UserError(f"{origin} redirects more than {_MAX_REDIRECTS} times: refused")


def _receive(response: Any, place: Path, start: int, max_bytes: int, progress: Progress | None) -> None:
    status, headers = response.status_code, response.headers
    if status == 416 or status >= 500 or status in (408, 425, 429):
        if status == 416:  # what is here is longer than the file there
            _forget(place)
        raise _Retry(f"the server answers {status}")
    if status not in (200, 206):
        raise UserError(f"{response.url} answers {status}: it may have moved; give a local file to `zoo fetch --file`")
    if headers.get("content-type", "").startswith(("text/html", "application/xhtml")):
        raise UserError(f"{response.url} is a web page, not a file: refused")
    if headers.get("content-encoding", "identity") != "identity":
        raise UserError(f"{response.url} is sent as {headers['content-encoding']}, which was not asked for: refused")
    if status == 206 and _range_start(headers) != start:
        _forget(place)
        raise _Retry("the server sent another range than asked for")
    if status == 200:  # from the beginning: it ignores ranges, or the file has changed
        start = 0
        _remember(place, headers)
    length = headers.get("content-length", "")
    total = start + int(length) if length.isdigit() else None
    if total is not None and total > max_bytes:
        raise UserError(f"{response.url} has {total:,} bytes, more than the {max_bytes:,} allowed: refused")
    if total is not None and shutil.disk_usage(place).free < total - start:
        raise OSError(errno.ENOSPC, "not enough space")
    with (place / _BODY).open("r+b" if start else "wb") as file:
        file.truncate(start)
        file.seek(start)
        _copy(response.iter_raw(), file, start, total, max_bytes, progress)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and _size(place) != total:
        raise _Retry(f"the server promised {total:,} bytes and sent {_size(place):,}")


def _copy(
    blocks: Iterator[bytes],
    file: BinaryIO,
    start: int,
    total: int | None,
    max_bytes: int,
    progress: Progress | None,
) -> None:
    done, since, mark = start, time.monotonic(), start
    for block in blocks:
        if done == 0 and block.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
            raise UserError("the server sent a web page instead of the file: refused")
        done += len(block)
        if done > max_bytes:
            raise UserError(f"the server sends more than the {max_bytes:,} bytes allowed: refused")
        file.write(block)
        if progress:
            progress(done, total)
        if (now := time.monotonic()) - since > STALL_SECONDS:
            if done - mark < STALL_BYTES:
                raise _Retry("the server stalls")
            since, mark = now, done


def _range_start(headers: Any) -> int | None:
    unit, _, rest = headers.get("content-range", "").partition(" ")
    first = rest.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else None


# ---------------------------------------------------------------- what stands on disk while a file is on its way


def _new_place(folder: Path) -> Path:
    place = folder / _name()
    place.mkdir()
    return place


def _take_over(folder: Path) -> Path | None:
    """Of this machine's ended processes, the place with most in it, renamed to be ours; of several takers one wins."""
    begin = f"{platform.node() or 'here'}-"
    left = [p for p in folder.iterdir() if p.name.startswith(begin) and not is_alive(_process(p.name, begin))]
    for place in sorted(left, key=_size, reverse=True):
        mine = folder / _name()
        if move(place, mine):
            for other in left:
                if other != place:
                    remove_tree(other)
            return mine
    return None


def _name() -> str:
    return f"{platform.node() or 'here'}-{os.getpid()}-{secrets.token_hex(8)}"


def _process(name: str, begin: str) -> int:
    number = name.removeprefix(begin).partition("-")[0]
    return int(number) if number.isdigit() else os.getpid()


def _size(place: Path) -> int:
    try:
        return (place / _BODY).stat().st_size
    except OSError:
        return 0


def _state(place: Path) -> tuple[int, str]:
    """How many bytes are here, and by what the server knows whether they are still right; none without that."""
    try:
        validator = json.loads((place / _VALIDATOR).read_text())
    except (OSError, ValueError):
        return 0, ""
    return (_size(place), validator) if isinstance(validator, str) and validator else (0, "")


def _remember(place: Path, headers: Any) -> None:
    _forget(place)
    etag = headers.get("etag", "")
    validator = headers.get("last-modified", "") if not etag or etag.startswith("W/") else etag
    (place / _VALIDATOR).write_text(json.dumps(validator))


def _forget(place: Path) -> None:
    for name in (_VALIDATOR, _BODY):
        (place / name).unlink(missing_ok=True)
