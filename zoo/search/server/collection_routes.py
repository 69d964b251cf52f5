"""Routes that show the collection: its facts, images, kept columns, neighbours, maps and thumbnails."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Path, Query, Response

from zoo.search.kept_columns import MAX_TEXT, KeptColumns, shown
from zoo.search.query import Match, nearest_to_row
from zoo.search.server.schemas import About, Column, Image, Neighbour, Problem
from zoo.search.server.served import ServedCollection
from zoo.transforms.unreadable import UnreadableImage

MAX_COUNT = 200  # images per page, and neighbours per query
_DECODERS = 4  # thumbnails made at once: each may need the memory of a large photograph
_CACHE_A_YEAR = {"cache-control": "private, max-age=31536000, immutable"}  # the URL holds the collection's hash
_BYTES = "application/octet-stream"
_BINARY: dict[int | str, dict[str, object]] = {
    200: {"content": {_BYTES: {"schema": {"type": "string", "format": "binary"}}}}
}
_NOT_FOUND: dict[int | str, dict[str, object]] = {404: {"model": Problem, "description": "There is none."}}

Count = Annotated[int, Query(ge=1, le=MAX_COUNT)]
RowNumber = Annotated[int, Path(ge=0, le=2**62)]


def add_collection_routes(app: FastAPI, served: ServedCollection, columns: KeptColumns) -> None:
    """Add the routes; they read the collection and write nothing."""
    collection, index = served.collection, served.index

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
            pictures=served.thumbnails is not None,
            maps=["pca", *(["umap"] if served.umap is not None else [])],
        )

    @app.get("/api/images")
    def images(start: Annotated[int, Query(ge=0, le=2**62)] = 0, count: Count = 60) -> list[Image]:
        """Images by row."""
        return images_of(range(start, min(start + count, len(collection))))

    @app.get("/api/rows", responses=_NOT_FOUND)
    def rows(row: Annotated[list[int], Query(min_length=1, max_length=MAX_COUNT)]) -> list[Image]:
        """Images by any rows, in the order asked for."""
        if not all(0 <= number < len(collection) for number in row):
            raise HTTPException(404, "there is no such image")
        return images_of(row)

    def images_of(rows: range | list[int]) -> list[Image]:
        items = collection.items(rows.start, len(rows)) if isinstance(rows, range) else map(collection.item, rows)
        return [
            Image(row=item.row, path=item.name, status=item.status, error=item.error, kept=kept)
            for item, kept in zip(items, columns.captions(rows), strict=True)
        ]

    @app.get("/api/neighbours/{row}", responses=_NOT_FOUND)
    def neighbours(row: RowNumber, k: Count = 24) -> list[Neighbour]:
        """The images nearest to one of the collection, itself first."""
        # Unknown rows and rows without an embedding get the same answer.
        found = nearest_to_row(collection, index, row, k)
        if found is None:
            raise HTTPException(404, f"image {row} has no embedding")
        return neighbours_of(found, columns)

    _add_column_routes(app, columns)
    _add_map(app, served)
    _add_thumbnails(app, served)


def neighbours_of(matches: list[Match], columns: KeptColumns) -> list[Neighbour]:
    """Return what is sent of the images that were found."""
    return [
        Neighbour(row=m.item.row, path=m.item.name, cosine=round(m.cosine, 6), kept=kept)
        for m, kept in zip(matches, columns.captions([m.item.row for m in matches]), strict=True)
    ]


def _add_column_routes(app: FastAPI, columns: KeptColumns) -> None:
    @app.get("/api/columns")
    def described() -> list[Column]:
        """The columns that --keep carried along, without those of nested values."""
        found = []
        for name in columns.names:
            column = asdict(columns.column(name))
            found.append(Column(**{**column, "values": [shown(value) for value in column["values"]]}))
        return found

    @app.get("/api/columns/{number}/values", response_class=Response, responses={**_BINARY, **_NOT_FOUND})
    def values(number: RowNumber) -> Response:
        """A value for each row, little-endian: uint16 codes of categories, 65535 where there is none; or float32."""
        if number >= len(columns.names):
            raise HTTPException(404, "there is no such column")
        try:
            codes = columns.codes(columns.names[number])
        except KeyError:
            raise HTTPException(404, "a column of texts has no codes") from None
        return Response(codes.astype(codes.dtype.newbyteorder("<")).tobytes(), media_type=_BYTES)

    @app.get("/api/filter", response_class=Response, responses={**_BINARY})
    def rows_with(text: Annotated[str, Query(min_length=1, max_length=MAX_TEXT)]) -> Response:
        """A byte for each row: 1 where the path or a kept value contains the text, in capitals or not."""
        return Response(columns.rows_with(text), media_type=_BYTES)


def _add_map(app: FastAPI, served: ServedCollection) -> None:
    # Prepare the map once for all visitors.
    map_bytes = served.map_points.astype("<f4").tobytes()

    @app.get("/api/map", response_class=Response, responses={**_BINARY, 202: {"model": Problem}, **_NOT_FOUND})
    def map_points(kind: Literal["pca", "umap"] = "pca") -> Response:
        """Little-endian float32 x, y of each row, from -1 to 1; NaN where an image has no embedding.

        202: the map is being computed, ask again.
        """
        if kind == "pca":
            return Response(map_bytes, media_type=_BYTES)
        if served.umap is None:
            raise HTTPException(404, "umap-learn is not installed")
        points = served.umap.points()
        if served.umap.has_failed:
            raise HTTPException(500, "the map could not be computed: the output of the server says why")
        if points is None:
            raise HTTPException(202, "the map is being computed", {"Retry-After": "1"})
        return Response(np.ascontiguousarray(points, "<f4").tobytes(), media_type=_BYTES)


def _add_thumbnails(app: FastAPI, served: ServedCollection) -> None:
    collection, thumbnails = served.collection, served.thumbnails
    # Decoding takes memory, so only a few threads do it.
    decoding = CapacityLimiter(_DECODERS)

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
