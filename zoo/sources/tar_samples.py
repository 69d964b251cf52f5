"""Labelled images in tar files, webdataset's among them, for training and evaluation."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zoo.errors import UserError
from zoo.sources.metadata import require_texts
from zoo.sources.storage import Local
from zoo.sources.tar_members import MAX_VALUE_BYTES, Member, extension_of, key_of, members
from zoo.system.verbosity import note
from zoo.transforms.decode import EXTENSIONS
from zoo.transforms.image_bytes import read_part
from zoo.transforms.unreadable import UnreadableImage

_LABEL_KEYS = ("label", "cls")  # of KEY.json


@dataclass(frozen=True)
class TarFile:
    """A tar file as it was when its headers were read."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class TarSample:
    """A labelled image in a tar file.

    Attributes:
        shard: the tar file.
        name: the member's name.
        offset, size: the bytes ``offset .. offset + size`` of the tar file are the image.
        label: ``None`` where the image has none.
    """

    shard: TarFile
    name: str
    offset: int
    size: int
    label: int | str | None

    def read(self) -> bytes:
        """Return the bytes of the image.

        Raises:
            UnreadableImage: the tar file is gone, cannot be read, or is not the one whose headers were read.
        """
        path = os.fsencode(self.shard.path)
        data = read_part(path, self.offset, self.size, mtime_ns=self.shard.mtime_ns)
        # Two files written within one tick of the clock have the same time.
        if Local("").size_and_time(path)[0] != self.shard.size:
            raise UnreadableImage("changed", "the tar file is not the one whose headers were read")
        return data


def samples(shards: list[Path]) -> list[TarSample]:
    """List the images of tar files, in their order, with the labels of ``KEY.cls`` or ``KEY.json``.

    Raises:
        UserError: a tar file is missing, compressed or damaged, or holds two images of one key.
    """
    found: list[TarSample] = []
    for path in shards:
        found += _samples_of(path)
    if not found:
        raise UserError(f"no image in {shards[0]}: members must be called KEY.jpg, with KEY.cls or KEY.json beside")
    return found


def _samples_of(path: Path) -> Iterator[TarSample]:
    # Check the shard before it opens.
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a file")
        with path.open("rb") as file:
            # Pair each image with the label beside it.
            images, labels = _by_key(file, status.st_size, path)
            shard = TarFile(path, status.st_size, status.st_mtime_ns)
            for key, image in images.items():
                label = _label(file, labels.get(key, {}), f"{path}: {key}")
                yield TarSample(shard, *image, label)
    except FileNotFoundError:
        raise UserError(f"no tar file at {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _by_key(file: BinaryIO, length: int, path: Path) -> tuple[dict[str, Member], dict[str, dict[str, Member]]]:
    """Return images by key, and label members by key and extension."""
    images: dict[str, Member] = {}
    labels: dict[str, dict[str, Member]] = {}
    unended, left_out = dict[str, None](), Counter[str]()
    # Sort the members by key into images and labels.
    for member in members(file, length, path, unended, lambda kind: left_out.update([kind])):
        key, extension = key_of(member.name), extension_of(member.name)
        place = Member(member.name, member.offset_data, member.size)
        if f".{extension}" in EXTENSIONS:
            if key in images:
                raise UserError(f"{path} holds two images called {key!r}: give each a key of its own")
            images[key] = place
        elif extension in ("cls", "json"):
            labels.setdefault(key, {})[extension] = place
    # Say what may be missing: an extraction of the tar file says the same.
    if unended:
        note(f"WARNING: {path} ends without a block of zeros: if it was cut off, its last images are missing")
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        note(f"{path}: members that are not read in place are left out ({kinds})")
    return images, labels


def _label(file: BinaryIO, beside: Mapping[str, Member], shown: str) -> int | str | None:
    # Find the label's member, and bound its size.
    member = beside.get("cls") or beside.get("json")
    if member is None:
        return None
    if member.size > MAX_VALUE_BYTES:
        raise UserError(f"{shown}: a label of {member.size} bytes")
    # Read it from its place in the tar file.
    file.seek(member.offset)
    try:
        text = file.read(member.size).decode()
        value: object = text.strip() if "cls" in beside else _label_in_json(json.loads(text))
        require_texts(value)
    except (ValueError, RecursionError):
        raise UserError(f"{shown}: {member.name} is not readable as a label") from None
    # A short number in digits is a class, other text is a name.
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise UserError(f"{shown}: the label in {member.name} is neither a number nor a name")


def _label_in_json(content: object) -> object:
    if not isinstance(content, dict):
        return content
    return next((content[key] for key in _LABEL_KEYS if key in content), None)
