"""The FastAPI application of ``zoo serve``: one page, the JSON it asks for, and ``/embed`` for other programs."""

from __future__ import annotations

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from zoo.errors import UserError
from zoo.search.kept_columns import KeptColumns
from zoo.search.query import embed_bytes, nearest
from zoo.search.server.collection_routes import Count, add_collection_routes, neighbours_of
from zoo.search.server.form_data import FORM
from zoo.search.server.host_check import SECURITY_HEADERS, HostCheckMiddleware
from zoo.search.server.request_limits import RequestLimiter
from zoo.search.server.schemas import Embedding, Neighbour, Problem
from zoo.search.server.served import ServedCollection
from zoo.search.server.static_files import add_static_files
from zoo.version import __version__

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IMAGE_BODY: dict[str, object] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of one JPEG, PNG, GIF, WebP, BMP or TIFF file.",
        "content": {
            "application/octet-stream": _BINARY,
            "image/*": _BINARY,
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}
_BODY_ERRORS: dict[int | str, dict[str, object]] = {
    408: {"model": Problem, "description": "Sent too slowly."},
    413: {"model": Problem, "description": "Too many bytes or pixels."},
    422: {"model": Problem, "description": "No image that can be read, or a parameter out of range."},
    503: {"model": Problem, "description": "Too many images at once: come back after Retry-After seconds."},
    504: {"model": Problem, "description": "Not done in time."},
}


def create_app(served: ServedCollection) -> FastAPI:
    """Create the application; it reads the collection and writes nothing."""
    app = FastAPI(
        title="siamese-zoo",
        version=__version__,
        description="Embeddings of images, and the images of one collection that are nearest to them.",
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
    )
    # Check the host before any route sees the request.
    app.add_middleware(HostCheckMiddleware, allowed_hosts=served.allowed_hosts)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(Exception, _unexpected)
    app.add_exception_handler(ClientDisconnect, _client_disconnected)
    # Add the page, then what it asks for.
    columns = KeptColumns(served.collection)
    add_static_files(app)
    add_collection_routes(app, served, columns)
    _add_image_routes(app, served, columns)
    return app


def _add_image_routes(app: FastAPI, served: ServedCollection, columns: KeptColumns) -> None:
    """Routes that take an image in the request's body."""
    limiter, embedder = RequestLimiter(served.limits), served.embedder
    collection, index = served.collection, served.index

    def close() -> None:
        limiter.close()
        if served.umap is not None:
            served.umap.close()

    app.state.close = close
    identity = embedder.identity()

    # Both routes embed alike, under the same limits.
    def vector(data: bytes) -> NDArray[np.float32]:
        return embed_bytes(embedder, data, served.limits.max_pixels, served.collection.decode_options)

    @app.post("/embed", responses=_BODY_ERRORS, openapi_extra=_IMAGE_BODY)
    async def embed(request: Request) -> Embedding:
        """An image in, its embedding out, as `zoo extract` makes it."""
        embedding = await limiter.run(request, vector)
        return Embedding(
            model=identity["model"],
            weights_sha256=identity.get("weights_sha256"),
            normalize=embedder.normalize,
            dim=embedder.dim,
            embedding=embedding.tolist(),
        )

    @app.post("/api/search", responses=_BODY_ERRORS, openapi_extra=_IMAGE_BODY)
    async def search(request: Request, k: Count = 24) -> list[Neighbour]:
        """An image in, the nearest images of the collection out."""
        return await limiter.run(
            request, lambda data: neighbours_of(nearest(collection, index, vector(data), k), columns)
        )


def _user_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 500)


def _unexpected(_: Request, error: Exception) -> Response:
    """Answer after an error of our own, which the log has; Starlette sends this outside of all middleware."""
    return JSONResponse({"detail": "internal error"}, 500, headers={**SECURITY_HEADERS, "cache-control": "no-store"})


def _client_disconnected(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
