"""Limits of the images that come in over HTTP: their size, their time and their number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from fastapi import HTTPException, Request

from zoo.search.server.form_data import file_of
from zoo.transforms.limits import MAX_PIXELS
from zoo.transforms.unreadable import UnreadableImage

T = TypeVar("T")


@dataclass(frozen=True)
class RequestLimits:
    """Limits of requests that carry an image.

    Attributes:
        max_bytes: size of a request's body.
        max_pixels: size of the decoded image.
        timeout: seconds for receiving an image, and again for answering it.
        concurrent: images that are worked on at the same time.
        queued: images that may wait for their turn; one more is answered by 503.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = MAX_PIXELS
    timeout: float = 30.0
    concurrent: int = 2
    queued: int = 14


class RequestLimiter:
    """Reads the bodies of requests within the limits and works on them in a pool of threads."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._active = 0  # requests that are being received, queued or worked on
        self._pool = ThreadPoolExecutor(limits.concurrent, thread_name_prefix="embed")

    async def run(self, request: Request, work: Callable[[bytes], T]) -> T:
        """Return ``work`` of the request's body, or of the one file in it if it is a form.

        Raises:
            HTTPException: 408 sent too slowly, 413 too many bytes or pixels, 422 no image, 503 too many at once,
                504 not done in time.
        """
        # Refuse before the body is read.
        if self._active >= self._limits.concurrent + self._limits.queued:
            raise HTTPException(503, "too many images at once: come back in a second", {"Retry-After": "1"})
        # Count the request while its body still arrives.
        self._active += 1
        try:
            body, content_type = await self._read_body(request), request.headers.get("content-type", "")
            future = self._pool.submit(lambda: work(file_of(body, content_type)))
        except BaseException:
            # No work was started that would release it.
            self._active -= 1
            raise
        return await self._result(future)

    def close(self) -> None:
        """Drop what waits for its turn; what has begun goes on to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _result(self, future: Future[T]) -> T:
        # A request counts as active until its work ends, which may be after its client was answered 504.
        result = asyncio.wrap_future(future)
        result.add_done_callback(self._release)
        # Let the work go on after a timeout, for only its end releases it.
        try:
            return await asyncio.wait_for(asyncio.shield(result), self._limits.timeout)
        except TimeoutError:
            future.cancel()  # has an effect only if it has not begun
            raise HTTPException(504, f"not done within {self._limits.timeout:g} s") from None
        except UnreadableImage as error:
            raise HTTPException(413 if error.reason == "too-large" else 422, str(error)) from None

    def _release(self, result: asyncio.Future[T]) -> None:
        self._active -= 1
        if not result.cancelled():
            result.exception()  # marks it as retrieved: asyncio complains of exceptions that nobody read

    async def _read_body(self, request: Request) -> bytes:
        too_long = HTTPException(413, f"more than {self._limits.max_bytes} bytes")
        # Refuse by the declared length if there is one.
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limits.max_bytes:
            raise too_long
        # Count the bytes as well, for the declared length may be wrong.
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.timeout):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._limits.max_bytes:
                        raise too_long
        except TimeoutError:
            raise HTTPException(408, f"not sent within {self._limits.timeout:g} s") from None
        return bytes(body)
