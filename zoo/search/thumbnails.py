"""Thumbnails of a collection's images, and of no other file.

An image is requested by row number, and its bytes must have the sha256 that was embedded. So a link, an altered table
or a replaced file shows nothing that is not in the collection. What had no embedding is not read. What is sent is a
JPEG made from decoded pixels, never the bytes of a file. In a folder, a file that lies outside it once all links are
followed is refused even if its hash agrees. A list may name files anywhere, ``/etc/passwd`` too: only what it names is
read, by the rules above, so that an altered plan leads nowhere else, and to no URL.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

from zoo.embeddings.columns import OK
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DUPLICATE
from zoo.errors import UserError
from zoo.search.collection import Collection, Item
from zoo.system.preflight import require_path
from zoo.transforms.image_bytes import read_bytes
from zoo.transforms.thumbnail import thumbnail
from zoo.transforms.unreadable import UnreadableImage

SMALL, LARGE = 240, 960  # longest side, pixels
_SHOWN = (OK, DUPLICATE)
_TRIED, _LOOKED_AT = 3, 50  # images at the start, to notice another folder than the one that was extracted
_CACHED = 2000  # small thumbnails in memory, about 10 kB each


class Thumbnails:
    """JPEG thumbnails made from the images of a collection; ``small`` ones are cached.

    Args:
        images: the source that was extracted, as given to ``zoo extract --images``.

    Raises:
        UserError: there is no such source.
    """

    def __init__(self, collection: Collection, images: str) -> None:
        self._collection = collection
        self._read = _image_reader(collection, images)
        self.small = lru_cache(_CACHED)(self._small)

    def large(self, row: int) -> bytes:
        """Return a JPEG of at most ``LARGE`` pixels a side; raises what ``small`` raises."""
        return thumbnail(self._read_verified(row), LARGE)

    def problem(self) -> str | None:
        """Return why none of the first images can be shown, with the name of one; ``None`` if one can be."""
        items = [item for item in self._collection.items(0, _LOOKED_AT) if item.status in _SHOWN][:_TRIED]
        reasons = []
        for item in items:
            try:
                self._read_verified(item.row)
            except UnreadableImage as error:
                reasons.append(f"{item.name}: {error.detail}")
        return reasons[0] if items and len(reasons) == len(items) else None

    def _small(self, row: int) -> bytes:
        """Return a JPEG of at most ``SMALL`` pixels a side.

        Raises:
            UnreadableImage: the image is missing, outside its folder, or not the one that was embedded.
            IndexError: there is no such row.
        """
        return thumbnail(self._read_verified(row), SMALL)

    def _read_verified(self, row: int) -> bytes:
        item = self._collection.item(row)
        if item.status not in _SHOWN:  # what was no image is not even read
            raise UnreadableImage("not-an-image", f"it has no embedding: {item.status}")
        if item.sha256 is None:
            raise UnreadableImage("missing", "it could not be read when it was extracted")
        data = self._read(item)
        if hashlib.sha256(data).hexdigest() != item.sha256:
            raise UnreadableImage("changed", "not the image that was extracted")
        return data


def _image_reader(collection: Collection, images: str) -> Callable[[Item], bytes]:
    """Return a function that reads an item's encoded image from the source ``images``."""
    # The plan tells whether the images lie inside other files.
    plan = None  # a folder of image files needs none
    with suppress(UserError):
        plan = Plan.load(collection.state / "plan.parquet")
    is_inside_files = plan is not None and plan.is_inside_files  # members of tars, rows of tables
    if os.path.isdir(images) and not is_inside_files:
        return _folder_reader(images)
    # Any other source is opened as the extraction did.
    from zoo.sources import open_source
    from zoo.sources.image_files import FileList, ImageFolder

    missing = f"no folder {images}: give --images what {collection.root} was extracted from"
    require_path(images, missing)
    column = collection.manifest.get("image_column")
    source = open_source(images, image_column=column if isinstance(column, str) else None)
    if isinstance(source, ImageFolder) and not is_inside_files:
        raise UserError(missing)
    # Without a whole plan, a row cannot be found in the source.
    if plan is None or plan.images != len(collection):
        raise UserError(
            f"{collection.root} has no plan in {collection.state.name} that says where images are: leave --images away"
        )
    files_of = plan.files_of
    listed = set(source.listing().files["path"].to_pylist()) if isinstance(source, FileList) else None

    def read(item: Item) -> bytes:
        row = files_of(range(item.row, item.row + 1)).to_pylist()[0]
        if listed is not None and row["path"] not in listed:
            raise UnreadableImage("no-permission", "the list of images does not name it")
        return source.read(row)

    return read


def _folder_reader(folder: str) -> Callable[[Item], bytes]:
    root = os.path.realpath(os.fsencode(folder))

    def read(item: Item) -> bytes:
        try:
            path = os.path.realpath(os.path.join(root, item.path))
        except ValueError:  # a NUL in an altered table
            raise UnreadableImage("missing", "no such file") from None
        # A link or an altered table must not lead out of the folder.
        if os.path.commonpath([path, root]) != root:
            raise UnreadableImage("no-permission", "it lies outside the folder of images")
        return read_bytes(path)

    return read
