"""Pictures of a collection's images for pages, and of nothing else.

A picture is asked for by row number, and what is read must have the sha256 that was embedded: so neither a link, nor
an altered table, nor a file that was replaced shows anything that is not in the collection. Of a folder, files that
lie outside it once all links are followed are refused even so.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

from PIL import Image

from zoo.embeddings.plan import Plan
from zoo.errors import UserError
from zoo.search.collection import Collection, Item
from zoo.transforms.decode import MAX_PIXELS, UnreadableImage, decoded, read_bytes

SMALL, LARGE = 240, 960  # longest side, pixels
_KEPT = 2000  # small ones, about 10 kB each


class Pictures:
    """JPEG files made from the images of a collection.

    Args:
        images: what was extracted, as ``zoo extract --images`` takes it.

    Raises:
        UserError: there is no such thing.
    """

    def __init__(self, collection: Collection, images: str) -> None:
        self._collection = collection
        self._read = _reader(collection, images)
        self.small = lru_cache(_KEPT)(self._small)

    def large(self, row: int) -> bytes:
        """A JPEG of at most ``LARGE`` pixels a side. Raises as ``small``."""
        return shrunk(self._checked(row), LARGE)

    def _small(self, row: int) -> bytes:
        """A JPEG of at most ``SMALL`` pixels a side.

        Raises:
            UnreadableImage: the image is not there, outside its folder, or not the one that was embedded.
            IndexError: no such row.
        """
        return shrunk(self._checked(row), SMALL)

    def _checked(self, row: int) -> bytes:
        item = self._collection.item(row)
        if item.sha256 is None:
            raise UnreadableImage("missing", "it could not be read when it was extracted")
        data = self._read(item)
        if hashlib.sha256(data).hexdigest() != item.sha256:
            raise UnreadableImage("changed", "not the image that was extracted")
        return data


def _reader(collection: Collection, images: str) -> Callable[[Item], bytes]:
    plan = None  # files in a folder are found without one
    with suppress(UserError):
        plan = Plan.load(collection.state / "plan.parquet")
    is_inside_files = plan is not None and "inside" in plan.files.schema.names
    if os.path.isdir(images) and not is_inside_files:
        return _below(images)
    from zoo.sources import open_source
    from zoo.sources.image_files import ImageFolder

    source = open_source(images)
    if isinstance(source, ImageFolder) and not is_inside_files:
        raise UserError(f"no folder {images}: give --images what {collection.root} was extracted from")
    if plan is None or len(plan.files) != len(collection):
        raise UserError(
            f"{collection.root} has no plan in {collection.state.name} that says where images are: leave --images away"
        )
    files = plan.files
    return lambda item: source.read(files.slice(item.row, 1).to_pylist()[0])


def _below(folder: str) -> Callable[[Item], bytes]:
    root = os.path.realpath(os.fsencode(folder))

    def read(item: Item) -> bytes:
        try:
            path = os.path.realpath(os.path.join(root, item.path))
        except ValueError:  # a NUL in an altered table
            raise UnreadableImage("missing", "no such file") from None
        if os.path.commonpath([path, root]) != root:
            raise UnreadableImage("no-permission", "it lies outside the folder of images")
        return read_bytes(path)

    return read


def shrunk(data: bytes, side: int) -> bytes:
    """An encoded image as a JPEG of at most ``side`` pixels a side, without metadata. Raises UnreadableImage."""
    with decoded(data, MAX_PIXELS) as image:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """For the ``src`` of an ``img`` in a page that stands alone."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
