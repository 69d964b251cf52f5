"""The web application of ``zoo serve``: one page, what it asks for, and ``/embed`` for other programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from collections.abc import Collection as Names
from dataclasses import dataclass, field
from importlib.resources import files as resources
from typing import Annotated, Any, Literal

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from zoo.errors import UserError
from zoo.inference.embedder import Embedder
from zoo.numerics.similarity import l2_normalize
from zoo.search.collection import Collection
from zoo.search.index import Index
from zoo.search.query import embed_bytes, named
from zoo.search.server.host_check import Guard
from zoo.search.server.request_limits import Gate, Limits
from zoo.search.thumbnails import Pictures
from zoo.transforms.decode import UnreadableImage
from zoo.version import __version__

MAX_COUNT = 200  # images of a page, and neighbours of an image
_DECODING = 4  # pictures at once; each may need the memory of a large photograph
_FOR_A_YEAR = {"cache-control": "private, max-age=31536000, immutable"}  # its address holds the collection's hash
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IMAGE_IN: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of one JPEG, PNG, GIF, WebP, BMP or TIFF file.",
        "content": {"application/octet-stream": _BINARY, "image/*": _BINARY},
    }
}


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


class Embedding(BaseModel):
    """Of one image."""

    model: str = Field(description="NAME.tag of the model.")
    weights_sha256: str | None
    normalize: bool = Field(description="Whether the embedding has length 1.")
    dim: int
    embedding: list[float]


class Neighbour(BaseModel):
    """An image of the collection."""

    row: int
    path: str
    cosine: float


class Image(BaseModel):
    """An image of the collection."""

    row: int
    path: str
    status: str = Field(description="ok, or why it has no embedding.")


class About(BaseModel):
    """The collection."""

    name: str
    version: str
    model: str
    images: int
    indexed: int
    index: str
    pictures: bool = Field(description="Whether thumbnails can be shown.")


_REFUSALS: dict[int | str, dict[str, Any]] = {
    408: {"model": Problem, "description": "Sent too slowly."},
    413: {"model": Problem, "description": "Too many bytes or pixels."},
    422: {"model": Problem, "description": "No image that can be read, or a parameter out of range."},
    503: {"model": Problem, "description": "Too many images at once: come back after Retry-After seconds."},
    504: {"model": Problem, "description": "Not done in time."},
}
_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "No such image."}}

Count = Annotated[int, Query(ge=1, le=MAX_COUNT)]
Row = Annotated[int, Path(ge=0, le=2**62)]


@dataclass(frozen=True)
class Gallery:
    """What is served; ``places`` is the map, ``names`` the hosts that requests may name."""

    collection: Collection
    index: Index
    embedder: Embedder
    places: NDArray[np.float32]
    pictures: Pictures | None = None
    limits: Limits = field(default_factory=Limits)
    names: Names[str] = ()


def create_app(gallery: Gallery) -> FastAPI:
    """The application; it reads the collection and writes nothing."""
    app = FastAPI(
        title="siamese-zoo",
        version=__version__,
        description="Embeddings of images, and the images of one collection that are nearest to them.",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Guard, names=gallery.names)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    _add_page(app)
    _add_collection(app, gallery)
    _add_images_in(app, gallery)
    return app


def _add_page(app: FastAPI) -> None:
    folder = resources("zoo.search") / "static"
    for address, name, kind in (
        ("/", "index.html", "text/html"),
        ("/style.css", "style.css", "text/css"),
        ("/app.js", "app.js", "text/javascript"),
        ("/map.js", "map.js", "text/javascript"),
    ):
        app.router.add_route(address, _constant((folder / name).read_bytes(), kind), methods=["GET"])


def _constant(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(_: Request) -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return page


def _add_collection(app: FastAPI, gallery: Gallery) -> None:
    collection, index, pictures = gallery.collection, gallery.index, gallery.pictures
    points = gallery.places.astype("<f4").tobytes()
    decoding = CapacityLimiter(_DECODING)

    @app.get("/api/collection")
    def about() -> About:
        """What is served."""
        return About(
            name=collection.root.resolve().name,
            version=collection.sha256[:16],
            model=collection.model,
            images=len(collection),
            indexed=index.told["indexed"],
            index=index.told["kind"],
            pictures=pictures is not None,
        )

    @app.get("/api/images")
    def images(start: Annotated[int, Query(ge=0, le=2**62)] = 0, count: Count = 60) -> list[Image]:
        """Images by row."""
        found = collection.items(start, count)
        return [Image(row=item.row, path=item.name, status=item.status) for item in found]

    @app.get("/api/neighbours/{row}", responses=_MISSING)
    def neighbours(row: Row, k: Count = 24) -> list[Neighbour]:
        """The images nearest to one of the collection, itself first."""
        vector = index.neighbours.vector(row) if row < len(collection) else None
        if vector is None:
            raise HTTPException(404, f"image {row} has no embedding")
        return _neighbours(gallery, vector, k)

    @app.get("/api/map", response_class=Response, responses={200: {"content": {"application/octet-stream": _BINARY}}})
    def places() -> Response:
        """Little-endian float32 x, y of each row, from -1 to 1; NaN where an image has no embedding."""
        return Response(points, media_type="application/octet-stream")

    @app.get("/pictures/{version}/{size}/{row}", response_class=Response, responses=_MISSING)
    async def picture(version: str, size: Literal["small", "large"], row: Row) -> Response:
        """A JPEG of an image of this version of the collection."""
        if pictures is None or version != collection.sha256[:16]:
            raise HTTPException(404, "no pictures: start with --images, or load the page again")
        make = pictures.small if size == "small" else pictures.large
        try:
            jpeg = await to_thread.run_sync(make, row, limiter=decoding)
        except (IndexError, UnreadableImage) as error:
            raise HTTPException(404, str(error)) from None
        return Response(jpeg, media_type="image/jpeg", headers=_FOR_A_YEAR)


def _add_images_in(app: FastAPI, gallery: Gallery) -> None:
    gate, embedder = Gate(gallery.limits), gallery.embedder
    identity = embedder.identity()

    def vector(data: bytes) -> NDArray[np.float32]:
        return embed_bytes(embedder, data, gallery.limits.max_pixels)

    @app.post("/embed", responses=_REFUSALS, openapi_extra=_IMAGE_IN)
    async def embed(request: Request) -> Embedding:
        """An image in, its embedding out, as `zoo extract` makes it."""
        found = await gate.run(request, vector)
        return Embedding(
            model=identity["model"],
            weights_sha256=identity.get("weights_sha256"),
            normalize=embedder.normalize,
            dim=embedder.dim,
            embedding=found.tolist(),
        )

    @app.post("/api/search", responses=_REFUSALS, openapi_extra=_IMAGE_IN)
    async def search(request: Request, k: Count = 24) -> list[Neighbour]:
        """An image in, the nearest images of the collection out."""
        return await gate.run(request, lambda data: _neighbours(gallery, vector(data), k))


def _neighbours(gallery: Gallery, vector: NDArray[np.float32], k: int) -> list[Neighbour]:
    query = l2_normalize(vector[None])
    if np.isnan(query).any():
        return []
    found = named(gallery.collection, gallery.index.neighbours.search(query, k)[0])
    return [Neighbour(row=n.item.row, path=n.item.name, cosine=round(n.cosine, 6)) for n in found]


def _user_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 500)


def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
