"""``zoo report``: tables from result files, and figures from the features of a model on a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from zoo.report import figures, tables
from zoo.report.render import to_html, to_markdown, write_png
from zoo.system.atomic_files import atomic_write_text, make_folder


def report(
    folders: Iterable[Path],
    out: Path,
    *,
    data: Path | None = None,
    models: Iterable[str] = (),
    device: str | None = None,
    label_column: str | None = None,
) -> list[Path]:
    """Write ``report.md``, ``report.html``, a PNG per table and the figures into ``out``; return their paths.

    Args:
        folders: with files of ``zoo evaluate --out``, read recursively.
        data: labelled images (``zoo.datasets.labelled.open_splits``) for figures; ``None`` draws only the results.
        models: names or paths of the models whose features are drawn.
        label_column: column of ``data`` with the labels; default: the one with a usual name.

    Raises:
        UserError: there are no results, data or a model cannot be used, or matplotlib is missing.
    """
    results = tables.load_results(folders)
    built = tables.build(results)
    make_folder(out)
    written: list[Path] = []
    for table in built:
        path = out / f"table-{_table_stem(table.title)}.png"
        write_png(table, path)
        written.append(path)
    # Draw the figures; those of the features need data.
    drawn = figures.draw_results(results, out)
    if data is not None:
        for model in models:
            drawn += figures.draw_features(model, data, out, device=device, label_column=label_column)
    # Write both pages last, as they link to the files.
    names = [p.name for p in drawn]
    atomic_write_text(out / "report.md", to_markdown(built, names))
    atomic_write_text(out / "report.html", to_html(built, names))
    return [out / "report.md", out / "report.html", *written, *drawn]


def _table_stem(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
