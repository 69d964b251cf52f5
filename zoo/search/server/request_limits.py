"""Where images come in over HTTP: bounded in bytes, in time and in number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from fastapi import HTTPException, Request

from zoo.transforms.decode import MAX_PIXELS, UnreadableImage

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Of the images sent to the server.

    Attributes:
        max_bytes: of one request.
        max_pixels: of one image.
        seconds: for sending an image, and again for its answer.
        at_once: how many are worked on at the same time.
        waiting: how many may wait for their turn; one more is told to come back.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = MAX_PIXELS
    seconds: float = 30.0
    at_once: int = 2
    waiting: int = 14


class Gate:
    """Lets the bodies of requests through to work in threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inside = 0
        self._pool = ThreadPoolExecutor(limits.at_once, thread_name_prefix="embed")

    async def run(self, request: Request, work: Callable[[bytes], T]) -> T:
        """``work`` on the body of a request.

        Raises:
            HTTPException: 408 sent too slowly, 413 too many bytes or pixels, 422 no image, 503 too many at once,
                504 not done in time.
        """
        if self._inside >= self._limits.at_once + self._limits.waiting:
            raise HTTPException(503, "too many images at once: come back in a second", {"Retry-After": "1"})
        self._inside += 1
        try:
            future = self._pool.submit(work, await self._body(request))
        except BaseException:
            self._inside -= 1
            raise
        return await self._answer(future)

    async def _answer(self, future: Future[T]) -> T:
        # The place is free again when the work ends, which may be after the client was told that it takes too long.
        answer = asyncio.wrap_future(future)
        answer.add_done_callback(self._leave)
        try:
            return await asyncio.wait_for(asyncio.shield(answer), self._limits.seconds)
        except TimeoutError:
            future.cancel()  # where it has not begun
            raise HTTPException(504, f"not done within {self._limits.seconds:g} s") from None
        except UnreadableImage as error:
            raise HTTPException(413 if error.reason == "too-large" else 422, str(error)) from None

    def _leave(self, answer: asyncio.Future[T]) -> None:
        self._inside -= 1
        if not answer.cancelled():
            answer.exception()  # read, or Python complains where nobody waits for it any more

    async def _body(self, request: Request) -> bytes:
        too_long = HTTPException(413, f"more than {self._limits.max_bytes} bytes")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limits.max_bytes:
            raise too_long
        data = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > self._limits.max_bytes:
                        raise too_long
        except TimeoutError:
            raise HTTPException(408, f"not sent within {self._limits.seconds:g} s") from None
        return bytes(data)
