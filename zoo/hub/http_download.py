"""Download one large file over HTTPS to one ``.incomplete`` file; resumed, and bounded in time and size.

This is the only module that opens a connection of its own (huggingface_hub opens others). The server is not trusted: it
may drop, stall, lie about lengths, ignore ranges, answer with a page, redirect to plain http, or never end.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from zoo.errors import UserError, reason_of
from zoo.system.atomic_files import make_folder

if TYPE_CHECKING:
    import httpx2

MIRROR = "SIAMESE_ZOO_MIRROR"  # https://HOST/PATH: a file is then requested at MIRROR/<host of the URL>/<its path>
OFFLINE = "HF_HUB_OFFLINE"
CONNECT_SECONDS = 15.0
FIRST_CONNECT_SECONDS = 2.5  # until the server has answered once: who is offline should learn it soon
UNREACHED_SECONDS = 1.0  # further attempts to reach it begin in this time
READ_SECONDS = 30.0
STALL_SECONDS, STALL_BYTES = 60.0, 1 << 16  # fewer bytes in this time are a stall, however regularly they arrive
ATTEMPTS = 5
_PROGRESS_BYTES = 16 << 20  # an attempt that gains so much restores the number of attempts
_BACKOFF = 1.0  # seconds before the second attempt; doubled for each further one
_MAX_REDIRECTS = 5
_DIGITS = 24  # fewer in the size of any file
_LOCAL = {"127.0.0.1", "localhost", "::1"}

Progress = Callable[[int, int | None], None]


class _Retry(Exception):
    """A failure that may pass; the message describes it."""


class _Unreachable(_Retry):
    """No connection could be made: the server, or the whole network, is out of reach."""


@dataclass(frozen=True)
class _Partial:
    """The bytes so far in ``body``, and the server's validator (an ETag or a date) in a file beside it."""

    body: Path

    @property
    def _validator(self) -> Path:
        return self.body.with_suffix(".validator")

    @property
    def size(self) -> int:
        try:
            return self.body.stat().st_size
        except OSError:
            return 0

    def resume_point(self) -> tuple[int, str]:
        """Return the bytes that are here and their validator; (0, "") where they cannot be validated."""
        try:
            validator = json.loads(self._validator.read_text())
        except (OSError, ValueError):
            return 0, ""
        return (self.size, validator) if isinstance(validator, str) and validator else (0, "")

    def begin(self, headers: Mapping[str, str]) -> None:
        """Start anew with the file that these headers describe."""
        self.remove()
        etag = headers.get("etag", "")
        validator = headers.get("last-modified", "") if not etag or etag.startswith("W/") else etag
        # One that cannot be sent back validates nothing.
        self._validator.write_text(json.dumps(validator if validator.isascii() and validator.isprintable() else ""))

    def remove(self) -> None:
        for path in (self._validator, self.body):
            path.unlink(missing_ok=True)


def is_offline() -> bool:
    """True if the user forbids the network, by the variable that huggingface_hub reads too."""
    return os.environ.get(OFFLINE, "").upper() in {"1", "ON", "YES", "TRUE"}


def download(url: str, partial: Path, *, max_bytes: int, progress: Progress | None = None) -> Path:
    """Download ``url`` to the file ``partial``, and return that path.

    Bytes that an earlier call left there are kept if the server confirms that its file is unchanged. The caller holds a
    lock, so that one process at a time downloads to ``partial``, and calls ``remove_partial`` when it needs it no more.

    Args:
        max_bytes: size limit.
        progress: is called with the bytes so far and the total, ``None`` where the server does not state it.

    Raises:
        UserError: offline, refused or not found, a web page instead of a file, too large, a redirect to plain http, or
            a full disk; ``partial`` is then removed. Or ``ATTEMPTS`` attempts in a row made no progress; it then stays.
    """
    # Refuse early what would touch the network or an unsafe address.
    if is_offline():
        raise UserError(
            f"{OFFLINE} is set and {url} is not in the cache: unset it, or give the file to "
            "`zoo fetch NAME --file FILE`"
        )
    address = _mirrored(url)
    _require_safe(address, address)
    # Continue in the partial file that an earlier run has left.
    make_folder(partial.parent)
    here = _Partial(partial)
    attempts, last = ATTEMPTS, "no answer"
    reached, started = False, time.monotonic()
    # Try until the attempts without progress are used up.
    while attempts:
        before = here.size
        try:
            _attempt(address, here, max_bytes, progress, CONNECT_SECONDS if reached else FIRST_CONNECT_SECONDS)
            return partial
        except _Unreachable as error:
            last = str(error)
            if not reached and time.monotonic() - started > UNREACHED_SECONDS:
                break
        except _Retry as error:
            last, reached = str(error), True
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                here.remove()
                raise UserError(f"disk full while downloading {url}: free space and run the same again") from None
            raise
        except UserError:
            here.remove()
            raise
        # Progress renews the attempts, so a slow line can finish a large file.
        attempts = ATTEMPTS if here.size - before >= _PROGRESS_BYTES else attempts - 1
        if attempts:
            pause = _BACKOFF * 2 ** (ATTEMPTS - 1 - attempts)
            time.sleep(pause if reached else min(pause, UNREACHED_SECONDS / 2))
    if not reached:
        raise UserError(
            f"{address} cannot be reached ({last}): are you offline? download {url} elsewhere and run "
            f"`zoo fetch NAME --file FILE`, or set {MIRROR} to a mirror"
        )
    raise UserError(f"{url} could not be downloaded ({last}): run the same again, it continues where it stopped")


def remove_partial(partial: Path) -> None:
    """Remove a download, finished or not."""
    _Partial(partial).remove()


def _mirrored(url: str) -> str:
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    parts = urlsplit(url)
    return f"{mirror}/{parts.netloc}{parts.path}" if mirror else url


def _require_safe(address: str, origin: str) -> None:
    """Accept https, and plain http to this machine if the user's own URL points to this machine."""
    parts, first = urlsplit(address), urlsplit(origin)
    if parts.scheme == "https":
        return
    if parts.scheme == "http" and parts.hostname in _LOCAL and first.hostname in _LOCAL:
        return
    raise UserError(f"{address} is not https: refused")


def _http_library() -> ModuleType:
    """Import httpx2, or httpx where huggingface_hub is older than 2; timm depends on one of them."""
    for name in ("httpx2", "httpx"):
        with suppress(ImportError):
            return import_module(name)
    raise UserError("downloading needs httpx2: pip install httpx2")


def _attempt(
    address: str, partial: _Partial, max_bytes: int, progress: Progress | None, connect_seconds: float
) -> None:
    """Request the rest of the file, or all of it, once."""
    library = _http_library()
    # Ask only for the missing part, if the server still has the same file.
    start, validator = partial.resume_point()
    headers = {"Accept-Encoding": "identity", "User-Agent": "siamese-zoo"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    timeout = library.Timeout(READ_SECONDS, connect=connect_seconds)
    # Follow the redirects ourselves, since each address must be safe.
    try:
        with library.Client(timeout=timeout, follow_redirects=False) as client:
            response = _follow(client, address, headers)
            try:
                _receive(response, partial, start, max_bytes, progress)
            finally:
                response.close()
    except (library.ConnectError, library.ConnectTimeout) as error:
        raise _Unreachable(f"{type(error).__name__}: {error}".rstrip(": ")) from None
    except library.HTTPError as error:  # time-outs, dropped connections, wrong lengths
        raise _Retry(f"{type(error).__name__}: {error}".rstrip(": ")) from None


def _follow(client: httpx2.Client, address: str, headers: dict[str, str]) -> httpx2.Response:
    """Return the response at the end of the redirects; its body is not read yet."""
    origin = address
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            response = client.send(client.build_request("GET", address, headers=headers), stream=True)
            if response.status_code not in (301, 302, 303, 307, 308):
                return response
            target = urljoin(address, response.headers.get("location", ""))
            response.close()
            _require_safe(target, origin)
        except (_http_library().InvalidURL, ValueError) as error:  # ValueError: of urllib, and of the name's encoding
            raise UserError(f"{origin} leads to what is no address ({reason_of(error)}): refused") from None
        address = target
    raise UserError(f"{origin} redirects more than {_MAX_REDIRECTS} times: refused")


def _receive(
    response: httpx2.Response, partial: _Partial, start: int, max_bytes: int, progress: Progress | None
) -> None:
    """Check the answer's status and headers, then append its body to ``partial``."""
    status, headers = response.status_code, response.headers
    # answers that may pass
    if status == 416:  # the file here is longer than the server's
        partial.remove()
    if status == 416 or status >= 500 or status in (408, 425, 429):
        raise _Retry(f"the server answers {status}")
    first, stated = _content_range(headers) if status == 206 else (None, None)
    if status == 206 and first != start:
        partial.remove()
        raise _Retry("the server sent another range than asked for")
    # answers that do not
    if status not in (200, 206):
        raise UserError(f"{response.url} answers {status}: it may have moved; give a local file to `zoo fetch --file`")
    if headers.get("content-type", "").startswith(("text/html", "application/xhtml")):
        raise UserError(f"{response.url} is a web page, not a file: refused")
    if headers.get("content-encoding", "identity") != "identity":
        raise UserError(f"{response.url} is sent as {headers['content-encoding']}, which was not asked for: refused")
    # the file, or its rest
    if status == 200:  # the whole file: the server ignores ranges, or its file has changed
        start = 0
        partial.begin(headers)
    # Refuse a size over the limit or over the free space before writing.
    length = _number(headers.get("content-length", ""))
    total = start + length if length is not None else None
    if total is not None and total > max_bytes:
        raise UserError(f"{response.url} has {total:,} bytes, more than the {max_bytes:,} allowed: refused")
    if total is not None and shutil.disk_usage(partial.body.parent).free < total - start:
        raise OSError(errno.ENOSPC, "not enough space")
    # Write after the part that is kept, and sync it to the disk.
    with partial.body.open("r+b" if start else "wb") as file:
        file.truncate(start)
        file.seek(start)
        _copy(response.iter_raw(), file, start, total, max_bytes, progress)
        file.flush()
        os.fsync(file.fileno())
    # A short answer counts as a lost connection.
    total = total if stated is None else stated
    if total is not None and partial.size != total:
        raise _Retry(f"the server promised {total:,} bytes and sent {partial.size:,}")


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
        # A web page instead of the file: often a login or an error page.
        if done == 0 and block.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
            raise UserError("the server sent a web page instead of the file: refused")
        done += len(block)
        # Servers may send more than they announce.
        if done > max_bytes:
            raise UserError(f"the server sends more than the {max_bytes:,} bytes allowed: refused")
        file.write(block)
        if progress:
            progress(done, total)
        # Give up on a connection that is too slow to finish.
        if (now := time.monotonic()) - since > STALL_SECONDS:
            if done - mark < STALL_BYTES:
                raise _Retry("the server stalls")
            since, mark = now, done


def _content_range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the first byte and the size of the whole file that an answer of status 206 states."""
    unit, _, rest = headers.get("content-range", "").partition(" ")
    place, _, total = rest.partition("/")
    return (_number(place.partition("-")[0]), _number(total)) if unit == "bytes" else (None, None)


def _number(text: str) -> int | None:
    """Return a number of a header; ``None`` where it is none, or longer than any file's."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else None
