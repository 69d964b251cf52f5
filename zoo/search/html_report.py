"""Search results as one HTML file: thumbnails are embedded, there is no script, and nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

from zoo.search.captions import Captions
from zoo.search.collection import Collection
from zoo.search.query import Match, QueryResult
from zoo.search.thumbnails import SMALL, Thumbnails
from zoo.system.atomic_files import atomic_write_text, make_folder
from zoo.transforms.image_bytes import read_bytes
from zoo.transforms.thumbnail import data_uri, thumbnail
from zoo.transforms.unreadable import UnreadableImage

_STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.4 }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1rem; margin: 0 0 .6rem; overflow-wrap: anywhere }
.about { opacity: .7; margin: .3rem 0 1.5rem }
section { display: grid; grid-template-columns: 15rem 1fr; gap: 1.5rem; margin: 0 0 2.5rem }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; margin: 0; padding: 0 }
li { list-style: none }
img, .none { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: .5rem;
  background: color-mix(in srgb, currentColor 10%, transparent) }
.none { display: grid; place-items: center; font-size: .8rem; opacity: .6; text-align: center }
figure { margin: 0 } figcaption { display: flex; gap: .5rem; justify-content: space-between; font-size: .8rem }
figcaption span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
figcaption b { flex: none; font-variant-numeric: tabular-nums }
@media (max-width: 45rem) { section { grid-template-columns: 1fr } }
"""


def write(
    path: Path,
    collection: Collection,
    results: Sequence[QueryResult],
    thumbnails: Thumbnails | None,
    *,
    centred: bool = True,
    caption: str | None = None,
) -> None:
    """Write the page; without ``thumbnails`` the neighbours are names, ranks and cosines only.

    Args:
        centred: whether the cosines are those of centred embeddings.
        caption: a kept column, whose values stand under the pictures and colour them.

    Raises:
        UserError: the file cannot be written, or the result has no such column.
    """
    captions = None if caption is None else Captions(collection, caption)
    style = _STYLE + (captions.style if captions else "")
    # the page allows no other style than its own and no picture but those inside it
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    about = (
        f"{len(collection)} images, {collection.model}; rank and {'centred ' if centred else ''}cosine, nearest first"
    )
    # Keep everything inside the page, so that it works offline.
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; img-src data:; style-src 'sha256-{digest}'\">"
        f'<title>Nearest images</title><link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f'<h1>Nearest images</h1><p class="about">{escape(about)}</p>{captions.legend() if captions else ""}'
    )
    sections = "".join(_section(result, thumbnails, captions) for result in results)
    # names are escaped already; this is for lone surrogates that the terminal's arguments may still hold
    text = (head + sections + "</body></html>\n").encode(errors="backslashreplace").decode()
    make_folder(path.parent)
    atomic_write_text(path, text)


def _section(result: QueryResult, thumbnails: Thumbnails | None, captions: Captions | None) -> str:
    name = escape(result.query)
    if result.error is not None:
        return f"<section><h2>{name}</h2><p>{escape(result.error)}</p></section>"
    tiles = "".join(f"<li>{_tile(n, match, thumbnails, captions)}</li>" for n, match in enumerate(result.neighbours, 1))
    short = escape(Path(result.query).name)
    return f'<section><div><h2 title="{name}">{short}</h2>{_query_image(result)}</div><ol>{tiles}</ol></section>'


def _query_image(result: QueryResult) -> str:
    try:
        return _img(thumbnail(read_bytes(result.file), SMALL), result.query)
    except UnreadableImage as error:
        return f'<div class="none">{escape(str(error))}</div>'


def _tile(rank: int, match: Match, thumbnails: Thumbnails | None, captions: Captions | None) -> str:
    name = match.item.name
    image = '<div class="none">no picture</div>'
    if thumbnails is not None:
        try:
            image = _img(thumbnails.small(match.item.row), name)
        except UnreadableImage as error:
            image = f'<div class="none">{escape(str(error))}</div>'
    label = escape(name)
    caption = f'<span title="{label}">{label}</span><b>{rank} · {match.cosine:.3f}</b>'
    kept = captions.of(match.item.row) if captions else ""
    return f"<figure>{image}<figcaption>{caption}</figcaption>{kept}</figure>"


def _img(jpeg: bytes, name: str) -> str:
    return f'<img src="{data_uri(jpeg)}" alt="{escape(name)}">'
