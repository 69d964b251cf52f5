from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_collection import clusters, make

from zoo.errors import UserError
from zoo.search import captions, html_report
from zoo.search.captions import Captions
from zoo.search.collection import Collection
from zoo.search.index import build, open_index
from zoo.search.query import QueryResult, nearest_to_row

STATIC = Path(captions.__file__).parent / "static"
KINDS = ["<script>alert(1)</script>", "\u202ecat", "\x1b[31m", None] * 6


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    kept = pa.table({"kind": KINDS, "price": np.linspace(0, 1, 24), "id": [f"n{n}" for n in range(24)]})
    made = make(tmp_path / "out", clusters(24, 4), kept=kept)
    build(made)
    return made


def page(collection: Collection, caption: str | None) -> str:
    found = nearest_to_row(collection, open_index(collection), 0, 24)
    assert found is not None
    path = collection.root.parent / "page.html"
    html_report.write(path, collection, [QueryResult("q.jpg", path, tuple(found))], None, caption=caption)
    return path.read_text()


def test_values_are_captions_of_their_pictures_and_never_markup(collection: Collection) -> None:
    text = page(collection, "kind")
    shown = re.findall(
        r'title="(\d+)\.jpg">.*?<figcaption class="kept"><i class="dot k(\d+)"></i><span><bdi>(.*?)<', text
    )
    assert len(shown) == 24
    unescaped = [(int(row), value.replace("&lt;", "<").replace("&gt;", ">")) for row, _, value in shown]
    assert unescaped == [(row, KINDS[row] or "no value") for row, _ in unescaped]
    assert len({(colour, value) for _, colour, value in shown}) == 4
    assert "<script" not in text
    assert text.count("<i ") == text.count("</i>")


def test_colours_of_a_scale_and_a_caption_without_colours(collection: Collection) -> None:
    colours = {
        int(row): int(k) for row, k in re.findall(r'title="(\d+)\.jpg">.*?dot k(\d+)', page(collection, "price"))
    }
    assert [colours[row] for row in range(24)] == [round(row / 23 * 8) for row in range(24)]
    assert "dot" not in page(collection, "id").partition("</style>")[2]


def test_the_same_page_without_a_caption_and_an_unknown_column(collection: Collection) -> None:
    assert "kept" not in page(collection, None)
    with pytest.raises(UserError, match="carries no column colour that can be a caption, it has: kind, price, id"):
        Captions(collection, "colour")


def test_the_report_and_the_served_page_have_the_same_colours() -> None:
    script = (STATIC / "palette.js").read_text()
    assert tuple(re.findall(r"#[0-9a-f]{6}", script)) == (*captions.CATEGORIES, *captions.SCALE)


def test_colours_are_those_of_matplotlib() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib.colors import to_hex

    assert tuple(map(to_hex, matplotlib.color_sequences["petroff10"])) == captions.CATEGORIES
    assert tuple(to_hex(matplotlib.colormaps["viridis"](n / 8)) for n in range(9)) == captions.SCALE
