"""The FastAPI application of ``zoo serve``: one page, the JSON it asks for, and ``/embed`` for other programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as resources
from typing import Annotated, Literal

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from zoo.errors import UserError
from zoo.inference.embedder import Embedder
from zoo.search.collection import Collection
from zoo.search.index import Index
from zoo.search.query import Match, embed_bytes, nearest, nearest_to_row
from zoo.search.server.form_data import FORM
from zoo.search.server.host_check import SECURITY_HEADERS, HostCheckMiddleware
from zoo.search.server.request_limits import RequestLimiter, RequestLimits
from zoo.search.thumbnails import Thumbnails
from zoo.transforms.decode import UnreadableImage
from zoo.version import __version__

MAX_COUNT = 200  # images per page, and neighbours per query
_DECODERS = 4  # thumbnails made at once: each may need the memory of a large photograph
_CACHE_A_YEAR = {"cache-control": "private, max-age=31536000, immutable"}  # the URL holds the collection's hash
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

# ---------------------------------------------------------------- response models; their names are in openapi.json


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


class Embedding(BaseModel):
    """The embedding of one image."""

    model: str = Field(description="NAME.tag of the model.")
    weights_sha256: str | None
    normalize: bool = Field(description="Whether the embedding has length 1.")
    dim: int
    embedding: list[float]


class Neighbour(BaseModel):
    """An image of the collection and its cosine similarity to the query."""

    row: int
    path: str
    cosine: float = Field(description="Of centred embeddings, if the collection says `centred`.")


class Image(BaseModel):
    """An image of the collection."""

    row: int
    path: str
    status: str = Field(description="ok, or why it has no embedding.")
    error: str | None = Field(None, description="More of why.")


class About(BaseModel):
    """The collection."""

    name: str
    version: str
    model: str
    images: int
    indexed: int
    index: str
    centred: bool = Field(description="Whether the collection's mean is subtracted before each cosine.")
    pictures: bool = Field(description="Whether thumbnails can be shown.")


_BODY_ERRORS: dict[int | str, dict[str, object]] = {
    408: {"model": Problem, "description": "Sent too slowly."},
    413: {"model": Problem, "description": "Too many bytes or pixels."},
    422: {"model": Problem, "description": "No image that can be read, or a parameter out of range."},
    503: {"model": Problem, "description": "Too many images at once: come back after Retry-After seconds."},
    504: {"model": Problem, "description": "Not done in time."},
}
_NOT_FOUND: dict[int | str, dict[str, object]] = {404: {"model": Problem, "description": "No such image."}}

Count = Annotated[int, Query(ge=1, le=MAX_COUNT)]
RowNumber = Annotated[int, Path(ge=0, le=2**62)]


@dataclass(frozen=True)
class ServedCollection:
    """A collection and all that is needed to answer requests for it.

    Attributes:
        map_points: float32 [rows, 2], see ``zoo.search.pca_map``.
        thumbnails: ``None`` shows names only.
        limits: bounds of the images sent to the server.
        allowed_hosts: host names that requests may use, besides ``localhost`` and addresses.
    """

    collection: Collection
    index: Index
    embedder: Embedder
    map_points: NDArray[np.float32]
    thumbnails: Thumbnails | None = None
    limits: RequestLimits = field(default_factory=RequestLimits)
    allowed_hosts: Sequence[str] = ()


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
    _add_static_files(app)
    _add_collection_routes(app, served)
    _add_image_routes(app, served)
    return app


def _add_static_files(app: FastAPI) -> None:
    folder = resources("zoo.search") / "static"
    for url, name, media_type in (
        ("/", "index.html", "text/html"),
        ("/style.css", "style.css", "text/css"),
        ("/app.js", "app.js", "text/javascript"),
        ("/map.js", "map.js", "text/javascript"),
    ):
        app.router.add_route(url, _static((folder / name).read_bytes(), media_type), methods=["GET"])


def _static(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return endpoint


def _add_collection_routes(app: FastAPI, served: ServedCollection) -> None:
    """Routes that show the collection: its facts, images, neighbours, map and thumbnails."""
    collection, index, thumbnails = served.collection, served.index, served.thumbnails
    # Prepare the map once for all visitors.
    map_bytes = served.map_points.astype("<f4").tobytes()
    # Decoding takes memory, so only a few threads do it.
    decoding = CapacityLimiter(_DECODERS)

    @app.get("/api/collection")
    def about() -> About:
        """The collection that is served."""
        return About(
            name=collection.root.resolve().name,
            version=collection.sha256[:16],
            model=collection.model,
            images=len(collection),
            indexed=index.info["indexed"],
            index=index.info["kind"],
            centred=index.is_centred,
            pictures=thumbnails is not None,
        )

    @app.get("/api/images")
    def images(start: Annotated[int, Query(ge=0, le=2**62)] = 0, count: Count = 60) -> list[Image]:
        """Images by row."""
        items = collection.items(start, count)
        return [Image(row=item.row, path=item.name, status=item.status, error=item.error) for item in items]

    @app.get("/api/neighbours/{row}", responses=_NOT_FOUND)
    def neighbours(row: RowNumber, k: Count = 24) -> list[Neighbour]:
        """The images nearest to one of the collection, itself first."""
        # Unknown rows and rows without an embedding get the same answer.
        found = nearest_to_row(collection, index, row, k)
        if found is None:
            raise HTTPException(404, f"image {row} has no embedding")
        return _neighbours(found)

    @app.get("/api/map", response_class=Response, responses={200: {"content": {"application/octet-stream": _BINARY}}})
    def map_points() -> Response:
        """Little-endian float32 x, y of each row, from -1 to 1; NaN where an image has no embedding."""
        return Response(map_bytes, media_type="application/octet-stream")

    @app.get("/pictures/{version}/{size}/{row}", response_class=Response, responses=_NOT_FOUND)
    async def picture(version: str, size: Literal["small", "large"], row: RowNumber) -> Response:
        """A JPEG of an image of this version of the collection."""
        # The version in the address makes the long caching safe.
        if thumbnails is None or version != collection.sha256[:16]:
            raise HTTPException(404, "no pictures: start with --images, or load the page again")
        make = thumbnails.small if size == "small" else thumbnails.large
        # Decode in a thread, so that other requests go on.
        try:
            jpeg = await to_thread.run_sync(make, row, limiter=decoding)
        except (IndexError, UnreadableImage) as error:
            raise HTTPException(404, str(error)) from None
        return Response(jpeg, media_type="image/jpeg", headers=_CACHE_A_YEAR)


def _add_image_routes(app: FastAPI, served: ServedCollection) -> None:
    """Routes that take an image in the request's body."""
    limiter, embedder = RequestLimiter(served.limits), served.embedder
    collection, index = served.collection, served.index
    app.state.close = limiter.close
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
        return await limiter.run(request, lambda data: _neighbours(nearest(collection, index, vector(data), k)))


def _neighbours(matches: list[Match]) -> list[Neighbour]:
    return [Neighbour(row=m.item.row, path=m.item.name, cosine=round(m.cosine, 6)) for m in matches]


def _user_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 500)


def _unexpected(_: Request, error: Exception) -> Response:
    """Answer after an error of our own, which the log has; Starlette sends this outside of all middleware."""
    return JSONResponse({"detail": "internal error"}, 500, headers={**SECURITY_HEADERS, "cache-control": "no-store"})


def _client_disconnected(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
