"""Tables as Markdown, as one HTML file and as PNG; a word marks the measured rows, and colour where there is any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from zoo.errors import UserError
from zoo.report.tables import Table, TableRow
from zoo.system.atomic_files import atomic_write
from zoo.system.markdown import markdown_text
from zoo.system.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEGEND = "published: from the paper named in the row; measured: by this project, from the file named in the row"
_MOST = 100  # characters of a cell in a picture
_COLOUR = {"published": "#ffffff", "measured": "#fff2c2"}
_CJK = """
Noto Sans CJK SC, Noto Sans CJK JP, Noto Sans CJK TC, Noto Sans CJK KR, Noto Sans SC, Noto Sans JP, Noto Sans TC,
Noto Sans KR, Microsoft YaHei, Yu Gothic, Malgun Gothic, PingFang SC, Hiragino Sans, Hiragino Sans GB,
Apple SD Gothic Neo, Arial Unicode MS, WenQuanYi Zen Hei, WenQuanYi Micro Hei, IPAexGothic, NanumGothic
"""  # fonts with the glyphs that matplotlib's font lacks, under their names in Linux, Windows and macOS
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; margin: .6rem 0; display: block; overflow-x: auto;
  font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
tr.measured td { background: #fff2c2; font-weight: 600 }
.note { color: #555 } img { max-width: 100%; margin: 1rem 0 } td.source { font-weight: 400; color: #666 }
"""


def to_markdown(tables: list[Table], figures: list[str]) -> str:
    """Return all tables, with a first column that marks the measured rows, and links to the figures."""
    parts = ["# Evaluation report", "", f"Rows are marked: {_LEGEND}.", ""]
    section = ""
    for table in tables:
        if table.section != section:
            section = table.section
            parts += [f"## {section}", ""]
        parts += [f"### {table.title}", ""]
        parts.append("| | " + " | ".join(table.columns) + " | source |")
        parts.append("|---" * (len(table.columns) + 2) + "|")
        for row in table.rows:
            mark = f"**{row.kind}**" if row.kind == "measured" else row.kind
            parts.append(f"| {mark} | " + " | ".join(_markdown(row)) + " |")
        parts += ["", *([table.note, ""] if table.note else [])]
    if figures:
        parts += ["## Pictures", ""]
        parts += [f"![{p}]({p})" if p.endswith(".png") else f"[{p}]({p})" for p in figures]
    return "\n".join(parts).rstrip() + "\n"


def _markdown(row: TableRow) -> list[str]:
    """Return cells and source; those of measured rows come from files, and must not become markup."""
    if row.kind == "measured":
        return [markdown_text(cell) for cell in (*row.cells, row.source)]
    return [*(cell.replace("|", "\\|") for cell in row.cells), row.source]


def to_html(tables: list[Table], figures: list[str]) -> str:
    """Return the same as one page; the figures lie beside it."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Evaluation report</title><style>{_STYLE}</style>"
    ]
    parts.append(f"<h1>Evaluation report</h1><p>Rows are marked: {escape(_LEGEND)}.</p>")
    section = ""
    for table in tables:
        if table.section != section:
            section = table.section
            parts.append(f"<h2>{escape(section)}</h2>")
        heads = "".join(f"<th>{escape(c)}</th>" for c in ("", *table.columns, "source"))
        parts.append(f"<h3>{escape(table.title)}</h3><table><thead><tr>{heads}</tr></thead><tbody>")
        for row in table.rows:
            cells = "".join(f"<td>{escape(printable(c))}</td>" for c in (row.kind, *row.cells))
            parts.append(f"<tr class={row.kind}>{cells}<td class=source>{escape(printable(row.source))}</td></tr>")
        parts.append("</tbody></table>" + (f"<p class=note>{escape(table.note)}</p>" if table.note else ""))
    for figure in figures:
        name = escape(figure)
        shown = f'<img src="{name}" alt="{name}">' if figure.endswith(".png") else f'<a href="{name}">{name}</a>'
        parts.append(f"<p>{shown}</p>")
    return "\n".join(parts) + "</html>\n"


def write_png(table: Table, path: Path) -> None:
    """Draw one table.

    Raises:
        UserError: matplotlib is not installed.
    """
    # The longest text of each column sets its width.
    columns = ["", *table.columns]
    cells = [[row.kind, *map(clipped, row.cells)] for row in table.rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) + 2 for i in range(len(columns))]
    with png_figure(path, max(6.0, 0.085 * sum(widths)), 0.8 + 0.27 * (len(cells) + 1)) as figure:
        axes = figure.subplots()
        axes.axis("off")
        drawn = axes.table(
            cellText=cells,
            colLabels=columns,
            colWidths=[w / sum(widths) for w in widths],
            cellColours=[[_COLOUR[row.kind]] * len(columns) for row in table.rows],
            cellLoc="left",
            bbox=[0, 0, 1, 1],  # type: ignore[arg-type]  # the stubs know one of the two forms
        )
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(9)
        # Headings and measured rows stand out in bold.
        for (line, _), cell in drawn.get_celld().items():
            cell.set_edgecolor("#dddddd")
            if line == 0 or table.rows[line - 1].kind == "measured":
                cell.set_text_props(weight="bold")
        axes.set_title(table.title, loc="left", fontsize=10, weight="bold")


def clipped(cell: str) -> str:
    """Return a cell as one line that leaves room for the others."""
    line = printable(cell)
    return line if len(line) <= _MOST else f"{line[: _MOST - 3]}..."


@contextmanager
def png_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty matplotlib figure without a window; at the end it is written as PNG, atomically.

    Args:
        width, height: in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.font_manager import fontManager
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'siamese-zoo[eval]'") from None
    # Class names may need glyphs that the default font lacks.
    installed = {font.name for font in fontManager.ttflist}  # matplotlib warns of others
    fallbacks = [name for name in map(str.strip, _CJK.split(",")) if name in installed]
    # A dollar in a name is no formula.
    with rc_context({"font.family": ["DejaVu Sans", *fallbacks], "text.parse_math": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure

        def write(file: BinaryIO) -> None:
            figure.savefig(file, format="png", dpi=130)

        atomic_write(path, write)
