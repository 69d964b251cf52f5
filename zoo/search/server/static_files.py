"""The files of the page; they come with the package, and are read once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files as resources

from fastapi import FastAPI, Request, Response

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def add_static_files(app: FastAPI) -> None:
    """Serve each file of ``zoo/search/static`` by its name, ``index.html`` as ``/``."""
    for file in sorted((resources("zoo.search") / "static").iterdir(), key=lambda file: file.name):
        media_type = _TYPES.get(file.name[file.name.rfind(".") :])
        if media_type is not None:
            url = "/" if file.name == "index.html" else f"/{file.name}"
            app.router.add_route(url, _static(file.read_bytes(), media_type), methods=["GET"])


def _static(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return endpoint
