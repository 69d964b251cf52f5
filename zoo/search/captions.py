"""Captions and colours of the HTML report from a kept column; the page of ``zoo serve`` has the same colours."""

from __future__ import annotations

import math
from html import escape

from zoo.errors import UserError
from zoo.search.collection import Collection
from zoo.search.kept_columns import MISSING, KeptColumns, shown

# Petroff's ten colours, chosen for every kind of colour vision (arXiv:2107.02270; matplotlib's "petroff10").
CATEGORIES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
# matplotlib's viridis (CC0) at nine places.
SCALE = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
_OTHER = "#969696"


class Captions:
    """A caption and a dot for each picture, and the legend of the dots.

    Raises:
        UserError: the result has no such column.
    """

    def __init__(self, collection: Collection, name: str) -> None:
        self._columns = KeptColumns(collection)
        if name not in self._columns.names:
            known = ", ".join(self._columns.names) or "none; `zoo extract --keep` carries columns"
            raise UserError(f"{collection.root} carries no column {name} that can be a caption, it has: {known}")
        self._column = self._columns.column(name)

    @property
    def style(self) -> str:
        """CSS of the dots and of the legend."""
        colours = CATEGORIES if self._column.kind == "categories" else SCALE
        rules = [f".k{n} {{ background: {colour} }}" for n, colour in enumerate((*colours, _OTHER))]
        return "\n".join(
            [
                ".dot { flex: none; width: .7rem; height: .7rem; border-radius: 50% } .kept { justify-content: start }",
                ".legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; align-items: center }",
                ".legend span { display: flex; gap: .35rem; align-items: center }",
                *rules,
                "",
            ]
        )

    def legend(self) -> str:
        """Return the name of the column, and what each colour means, as HTML."""
        column = self._column
        name = f"<b>{escape(column.name)}</b>"
        if column.kind == "categories":
            entries = [f"<span>{_dot(n)}{_isolated(value)}</span>" for n, value in enumerate(column.values[:10])]
            others = len(column.values) - len(CATEGORIES)
            more = [f"<span>{_dot(10)}{others} others</span>"] if others > 0 else []
            return f'<p class="legend">{name}{"".join([*entries, *more])}</p>'
        if column.kind == "numbers" and column.least is not None and column.most is not None:
            dots = "".join(map(_dot, range(len(SCALE))))
            return f'<p class="legend">{name}<span>{column.least:g} {dots} {column.most:g}</span></p>'
        return f'<p class="legend">{name}</p>'

    def of(self, row: int) -> str:
        """Return the caption of an image, as HTML."""
        (values,) = self._columns.captions([row])
        text = values.get(self._column.name, "no value")
        dot = "" if self._column.kind == "text" else _dot(self._place(row))
        return f'<figcaption class="kept">{dot}<span>{_isolated(text)}</span></figcaption>'

    def _place(self, row: int) -> int:
        """Return the number of a row's colour."""
        column = self._column
        value = self._columns.codes(column.name)[row]
        if column.kind == "categories":
            return len(CATEGORIES) if value == MISSING else min(int(value), len(CATEGORIES))
        if column.least is None or column.most is None or not math.isfinite(value):
            return len(SCALE)
        place = (float(value) - column.least) / ((column.most - column.least) or 1)
        return min(max(round(place * (len(SCALE) - 1)), 0), len(SCALE) - 1)


def _dot(number: int) -> str:
    return f'<i class="dot k{number}"></i>'


def _isolated(text: str) -> str:
    return f"<bdi>{escape(shown(text))}</bdi>"
