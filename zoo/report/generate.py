"""``zoo report``: tables from result files; pictures from the features of a model on a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from zoo.report import pictures, tables
from zoo.report.render import html, markdown, png
from zoo.system.atomic_files import atomic_write_text, make_folder


def report(
    folders: Iterable[Path],
    out: Path,
    *,
    data: Path | None = None,
    models: Iterable[str] = (),
    device: str | None = None,
) -> list[Path]:
    """Writes ``report.md``, ``report.html``, a PNG a table and the pictures into ``out``; returns their paths.

    Args:
        folders: with files of ``zoo evaluate --out``, read recursively.
        data: a labelled folder with train and test, whose images the pictures show; ``None`` draws what results hold.
        models: whose features the pictures are of.

    Raises:
        UserError: no results, or data or model cannot be used, or matplotlib is missing.
    """
    results = tables.load_results(folders)
    built = tables.build(results)
    make_folder(out)
    drawn: list[Path] = []
    for table in built:
        path = out / f"table-{_slug(table.title)}.png"
        png(table, path)
        drawn.append(path)
    shown = pictures.of_results(results, out)
    for model in models if data is not None else ():
        assert data is not None
        shown += pictures.of_features(model, data, out, device=device)
    names = [p.name for p in shown]
    atomic_write_text(out / "report.md", markdown(built, names))
    atomic_write_text(out / "report.html", html(built, names))
    return [out / "report.md", out / "report.html", *drawn, *shown]


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
