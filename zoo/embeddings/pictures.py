"""What a notebook shows of a result: thumbnails with names, as one piece of HTML without scripts.

A picture is shown only if its bytes have the sha256 that was embedded. Names are escaped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from html import escape
from pathlib import Path

import pyarrow as pa

from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import OutputFolder, table_name
from zoo.errors import UserError
from zoo.sources import open_source
from zoo.sources.base import ImageRow
from zoo.system.parquet import read_table
from zoo.transforms.thumbnail import data_uri, thumbnail
from zoo.transforms.unreadable import UnreadableImage

SHOWN = 12  # pictures of a result
_SIDE = 160  # pixels


class Pictures:
    """Thumbnails of a result's images.

    Args:
        folder: of the extraction.
        images: what was extracted, as given to ``zoo.extract``; ``None`` shows names alone.
    """

    def __init__(self, folder: Path, images: str | None) -> None:
        self._folder, self._images = folder, images

    def figure(self, row: int, name: str, sha256: str | None, caption: str) -> str:
        """Return an image of the extraction as HTML: its thumbnail if it can be shown, its name, and the caption."""
        text = escape(name)
        return (
            f'<figure style="margin:0;width:{_SIDE}px;font-size:12px">{self._image(row, text, sha256)}'
            f'<figcaption title="{text}" style="overflow:hidden;text-overflow:ellipsis;white-space:nowrap">'
            f"{escape(caption)} {text}</figcaption></figure>"
        )

    def _image(self, row: int, text: str, sha256: str | None) -> str:
        if self._reader is None or sha256 is None:
            return ""
        try:
            plan, read = self._reader
            data = read(plan.files_of(range(row, row + 1)).to_pylist()[0])
            if hashlib.sha256(data).hexdigest() != sha256:
                return ""
            jpeg = thumbnail(data, _SIDE)
        except (UnreadableImage, UserError, OSError, IndexError):
            return ""
        return f'<img src="{data_uri(jpeg)}" alt="{text}" style="width:100%;aspect-ratio:1;object-fit:contain">'

    @cached_property
    def _reader(self) -> tuple[Plan, Callable[[ImageRow], bytes]] | None:
        if self._images is None:
            return None
        try:
            plan = Plan.load(OutputFolder(self._folder).plan)
            return None if plan is None else (plan, open_source(self._images).read)
        except UserError:
            return None


def first_figures(folder: Path, images: str) -> list[str]:
    """Return the first images of a result as HTML; none from the first missing shard on."""
    rows: list[dict[str, str]] = []
    for shard in range(SHOWN):
        try:
            rows += read_table(folder / table_name(shard), ["path", "sha256"]).slice(0, SHOWN).to_pylist()
        except (OSError, pa.ArrowException):
            break
    pictures = Pictures(folder, images)
    return [pictures.figure(row, shown["path"], shown["sha256"], "") for row, shown in enumerate(rows[:SHOWN])]


def page(title: str, figures: Sequence[str], lines: Sequence[str] = ()) -> str:
    """Return a title, lines of text and figures, as one piece of HTML."""
    grid = "".join(figures)
    said = "".join(f'<div style="overflow-wrap:anywhere">{escape(line)}</div>' for line in lines)
    return f'<div>{escape(title)}{said}<div style="display:flex;flex-wrap:wrap;gap:8px">{grid}</div></div>'
