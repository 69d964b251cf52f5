"""The report: published numbers are the seed's, measured ones those of the files, and the rows say which is which."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from zoo.errors import UserError
from zoo.evaluate.protocols import PROTOCOLS
from zoo.publish.card.gather import CARDS
from zoo.report import tables
from zoo.report.embedding_map import tsne, write_map
from zoo.report.generate import report
from zoo.report.render import to_html, to_markdown, write_png


def result(**changes: Any) -> dict[str, Any]:
    found = {
        "protocol": "linear-sgd",
        "metric": "top-1",
        "score": 61.234,
        "interval_95": [60.0, 62.5],
        "parameters": {},
        "metrics": {"top-5": 83.0},
        "details": {},
        "data": {"name": "imagenet", "train": {"sha256": "a"}, "test": {"sha256": "b"}},
        "model": {"name": "byol_r50.deepmind_in1k", "dim": 2048},
        "file": "r.json",
    }
    return found | changes


def find(built: list[tables.Table], title: str) -> tables.Table:
    return next(t for t in built if title in t.title)


def test_every_number_has_a_source_and_as_many_columns_as_its_table() -> None:
    for table in tables.published():
        for row in table["rows"]:
            assert row["source"], table["id"]
            assert len(row["values"]) == len(table["columns"])
    ids = [t["id"] for t in tables.published()]
    assert sorted(i for s in tables.SECTIONS for i in s.published) == sorted(ids)


def test_the_published_rows_are_those_of_the_papers_text(request: pytest.FixtureRequest) -> None:
    given: Path | None = request.config.getoption("--published-text")
    if given is None:
        pytest.skip("needs the papers' tables as text, which may not be shipped: --published-text FILE")
    text = given.read_text()
    lines = {tuple(re.findall(r"(?<![\w.×])\d+\.\d+|(?<=\t)-(?=\s|$)", line)) for line in text.splitlines()}
    known = {tuple(cell for cell in line if cell != "-") for line in lines}
    elsewhere = {
        "byol-settings",
        "simsiam-cifar10",
        "lightly-cifar10",
        "solo-learn-cifar",
        "ablation-target",
        "ablation-batch-size",  # figures there
        "ablation-views",
        "ablation-stop-gradient",
        "byol-linear-variants",
        "seed-own",
    }
    for table in tables.published():
        for row in table["rows"]:
            if table["id"] in elsewhere or "table 9" in row["source"]:
                continue
            numbers = [v for v in row["values"] if v is not None]
            shown = tuple(f"{v:.3f}" if v < 1 and table["id"] == "nyu-depth" else f"{v:.1f}" for v in numbers)
            shown = shown[1:] if table["id"] == "ablation-simclr" else shown
            assert shown in known, (table["id"], row)
    for number in ("18.8 ± 0.7", "69.8", "72.5", "68.4", "67.55", "76.51", "76.31", "64.11"):
        assert number in text


def test_a_number_stands_in_a_published_table_only_on_the_same_data() -> None:
    built = tables.build([result(), result(data={"name": "cifar10-jpeg"}, score=50.0)])
    published = find(built, "Linear evaluation on ImageNet, ResNet-50")
    (mine,) = [r for r in published.rows if r.kind == "measured"]
    assert mine.cells == ("byol_r50.deepmind_in1k", "61.23", "83.0")
    assert len([r for r in published.rows if r.kind == "published"]) == 8
    measured = find(built, "Linear evaluation: measured")
    assert [r.cells[2:5] for r in measured.rows] == [("cifar10-jpeg", "top-1", "50.00"), ("imagenet", "top-1", "61.23")]


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"name": "imagenette"}},
        {"data": {"name": "imagenet", "classes": 100, "test": {"images": 5000, "sha256": "b"}}},
        {"data": {"name": "imagenet", "classes": 1000, "test": {"images": 10_000, "sha256": "b"}}},
        {"protocol": "transfer", "data": {"name": "pets"}, "parameters": {"mode": "linear"}},  # top-1
        {
            "protocol": "transfer",
            "data": {"name": "cars"},
            "parameters": {"mode": "linear", "split": "as given; a tenth"},
        },
        {"protocol": "segment", "data": {"name": "voc-mini"}, "metric": "mIoU"},
        {"protocol": "segment", "data": {"name": "VOC2012", "test": {"images": 20, "sha256": "b"}}, "metric": "mIoU"},
        {"protocol": "depth", "data": {"name": "nyu-part"}, "metrics": {"rms": 0.5}},
        {
            "protocol": "depth",
            "data": {"name": "NYUv2", "test": {"images": 290, "sha256": "b"}},
            "metrics": {"rms": 0.5},
        },
        {
            "protocol": "detect",
            "data": {"name": "VOC07+12", "test": {"images": 100, "sha256": "b"}},
            "metrics": {"box AP50": 61.234},
        },
        {"options": {"seed": 0, "epochs": "3"}},
        {"protocol": "semi-supervised", "options": {"grid": "small"}, "metrics": {"top-1 at 1 %": 50.0}},
    ],
)
def test_other_data_and_reduced_protocols_stay_out_of_published_tables(changes: dict[str, Any]) -> None:
    built = tables.build([result(**changes)])
    (own,) = (table for table in built if "measured with" in table.title)
    assert [row.kind for row in own.rows] == ["measured"]
    others = [table for table in built if table is not own]
    assert len(others) == len(tables.published())
    for table in others:
        assert {row.kind for row in table.rows} == {"published"}, table.title


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (float("nan"), "-"), (0.0, "0.00"), (0.5, "0.5"), (0.573, "0.573"), (0.9996, "1.0"), (0.0002, "0.0"),
     (1.0, "1.0"), (61.234, "61.23"), (99.996, "100.00"), (100.0, "100.0")],
)  # fmt: skip
def test_a_number_ends_in_a_digit(value: float | None, shown: str) -> None:
    assert tables._format(value) == shown


@pytest.mark.parametrize(
    ("title", "column", "protocol", "data", "more"),
    [
        ("Transfer, linear", "Cars", "transfer", "cars", {"parameters": {"mode": "linear"}}),
        (
            "Transfer, fine-tuned",
            "Pets",
            "transfer",
            "pets",
            {"parameters": {"mode": "fine-tuned"}, "metric": "mean per class"},
        ),
        ("VOC2007 detection", "mIoU", "segment", "voc2012", {"metric": "mIoU"}),
        ("NYU v2", "rms", "depth", "nyuv2", {"metrics": {"rms": 61.234}}),
        ("Detection and", "VOC07+12 AP50", "detect", "VOC07+12", {"metrics": {"box AP50": 61.234}}),
        ("Detection and", "COCO mask AP", "detect", "COCO 2017", {"metrics": {"mask AP": 61.234}}),
        (
            "ImageNet, ResNet-50",
            "top-5 at 10 %",
            "semi-supervised",
            "imagenet",
            {"metrics": {"top-5 at 10 %": 61.234}, "parameters": {"labels": "published lists"}},
        ),
        (
            "by epochs of pretraining",
            "100 ep",
            "linear-lars",
            "imagenet",
            {"model": {"name": "simsiam_r50.fair_in1k_100ep_256bs", "dim": 2048}},
        ),
    ],
)
def test_every_protocol_has_its_place(title: str, column: str, protocol: str, data: str, more: dict[str, Any]) -> None:
    changes = {"protocol": protocol, "data": {"name": data}, **more}
    built = tables.build([result(**changes)])
    table = next(t for t in built if title in t.title and column in t.columns)
    (mine,) = [r for r in table.rows if r.kind == "measured"]
    cells = dict(zip(table.columns, mine.cells, strict=True))
    assert cells.pop(column) == "61.23"
    assert not any(v for k, v in cells.items() if k != "method")


def measured(built: list[tables.Table], table: str) -> list[tuple[str, ...]]:
    """The measured cells of a published table, without those that are empty."""
    (known,) = (t for t in tables.published() if t["id"] == table)
    found = find(built, known["title"])
    return [tuple(c for c in row.cells if c) for row in found.rows if row.kind == "measured"]


def test_two_protocols_never_share_a_cell() -> None:
    filled = {"linear": "", "linear-sgd": "linear-r50", "linear-lars": "simsiam-epochs"}
    model = {"name": "simsiam_r50.fair_in1k_100ep", "dim": 2048}
    for protocol, own in filled.items():
        built = tables.build([result(protocol=protocol, model=model, metrics={})])
        for table in tables.published():
            assert bool(measured(built, table["id"])) == (table["id"] == own), (protocol, table["id"])
    both = tables.build([result(protocol=p, model=model, metrics={}, score=float(n)) for n, p in enumerate(filled, 1)])
    assert measured(both, "linear-r50") == [(model["name"], "2.0")]
    assert measured(both, "simsiam-epochs") == [(model["name"], "3.0")]


def test_every_protocol_is_in_one_section() -> None:
    assert sorted(p for s in tables.SECTIONS for p in s.protocols) == sorted(PROTOCOLS)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ({"name": "byol_r50.deepmind_in1k", "dim": 2048}, "r50"),
        ({"name": "byol_r200.random", "dim": 2048}, "ResNet-200 (1x)"),
        ({"name": "byol_r200x2.deepmind_in1k", "dim": 4096}, "ResNet-200 (2x)"),
        ({"name": "swav_r50x4.fair_in1k_400ep", "dim": 8192}, "ResNet-50 (4x)"),
        ({"name": "own", "dim": 4096, "parameters": 93_907_072}, "ResNet-50 (2x)"),
        ({"name": "own", "dim": 2048, "parameters": 23_508_032}, "r50"),
        ({"name": "own", "dim": 2048}, ""),  # ResNet-50 or ResNet-200
        ({"name": "byol_r18.random", "dim": 512}, ""),
        ({"name": "swav_r50x5.fair_in1k_400ep", "dim": 10240}, ""),
    ],
)
def test_each_architecture_has_its_own_table(model: dict[str, Any], shown: str) -> None:
    built = tables.build(
        [
            result(model=model, metrics={}),
            result(
                protocol="semi-supervised",
                model=model,
                parameters={"labels": "published lists"},
                metrics={"top-1 at 1 %": 53.2},
            ),
            result(protocol="depth", data={"name": "nyuv2"}, model=model, metrics={"rms": 0.5}),
        ]
    )
    for table, other, score in (
        ("linear-r50", "linear-wide", "61.23"),
        ("semi-supervised-r50", "semi-supervised-wide", "53.2"),
    ):
        normal, wide = measured(built, table), measured(built, other)
        assert [cells[1:] for cells in normal] == ([(score,)] if shown == "r50" else [])
        assert [cells[1:] for cells in wide] == ([(shown, score)] if shown.startswith("ResNet") else [])
    assert bool(measured(built, "nyu-depth")) == (shown == "r50")


def test_labels_that_this_project_drew_stand_beside_the_published_table() -> None:
    def semi(labels: str, **metrics: float) -> dict[str, Any]:
        return result(protocol="semi-supervised", parameters={"labels": labels}, metrics=metrics)

    drawn = semi("stratified, drawn for each seed", **{"top-1 at 1 %": 50.0, "top-1 at 10 %": 60.0})
    built = tables.build([drawn, semi("published lists", **{"top-1 at 1 %": 53.0})])
    title = "Semi-supervised on ImageNet, ResNet-50"
    (at,) = (n for n, t in enumerate(built) if t.title == title)
    assert measured(built, "semi-supervised-r50") == [("byol_r50.deepmind_in1k", "53.0")]
    assert built[at + 1].title == f"{title}: labels drawn by this project"
    assert [row.cells for row in built[at + 1].rows] == [("byol_r50.deepmind_in1k", "50.0", "60.0", "", "")]
    assert "Not comparable" in built[at + 1].note
    assert not [t for t in tables.build([semi("published lists")]) if "drawn by" in t.title]


def test_spreads_and_settings_of_the_papers_are_shown() -> None:
    text = to_markdown(tables.build([result()]), [])
    for line in (
        "| published | batch 64 | 59.7 ± 1.5 | 59.2 ± 2.9 | 83.2 ± 1.2 | 83.0 ± 1.9 | [B] table 16 |",
        "| published | remove color | 63.4 ± 0.7 | 45.7 | 85.3 ± 0.5 | 70.6 | [B] table 17 |",
        "| published | crop and color only | 70.7 | 64.2 | 90.0 | 86.2 | [B] table 17 |",
        "| published | BYOL | ResNet-200 (1x) | 63M | 77.8 | 93.9 | [B] table 9 |",
        "| published | MoCo v2 (repro.+) | 256 | yes | yes | 67.4 | 69.9 | 71.0 | 72.2 | [S] table 4 |",
        "| published | BYOL (repro.) | 4096 | no | yes | 66.5 | 70.6 | 73.2 | 74.3 | [S] table 4 |",
        "| published | BYOL, pre-train augmentations with tclip and logit penalty | ResNet-50 (1x) | 74.8 | 91.8 |",
    ):
        assert line in text


def test_the_gain_is_over_random_init_of_the_same_task() -> None:
    random = result(score=40.0, model={"name": "byol_r50.random", "dim": 2048})
    other = result(score=10.0, model={"name": "byol_r50.random", "dim": 2048}, options={"epochs": "1"})
    table = find(tables.build([result(), other, random]), "measured")
    gains = {row.cells[0]: row.cells[-1] for row in table.rows}
    assert gains == {"byol_r50.deepmind_in1k": "+21.2", "byol_r50, random init": ""}


def test_a_reduced_precision_is_a_model_of_its_own() -> None:
    model = {"name": "byol_r50.deepmind_in1k", "dim": 2048, "precision": "int8"}
    built = tables.build([result(model=model, score=58.0, metrics={}), result(model=model | {"precision": "fp32"})])
    assert measured(built, "linear-r50") == [
        ("byol_r50.deepmind_in1k, int8", "58.0"),
        ("byol_r50.deepmind_in1k", "61.23", "83.0"),
    ]
    names = [row.cells[0] for row in find(built, "Linear evaluation: measured").rows]
    assert names == ["byol_r50.deepmind_in1k", "byol_r50.deepmind_in1k, int8"]


def test_rows_are_marked_and_text_is_escaped() -> None:
    built = tables.build([result(model={"name": "<b>|evil", "dim": 1})])
    text, page = to_markdown(built, ["a.png"]), to_html(built, ["a.png", "map.html"])
    assert "| **measured** | &lt;b&gt;\\|evil |" in text
    assert "| published | BYOL | 74.3 | 91.6 | [B] table 1a |" in text
    assert "AP50 / AP / AP75" in text
    assert "<tr class=measured>" in page
    assert "<b>|evil" not in page
    assert page.count("<tr class=published>") == sum(len(t["rows"]) for t in tables.published())


def test_the_report_of_the_shipped_results(tmp_path: Path) -> None:
    semi = result(
        protocol="semi-supervised",
        data={"name": "flowers17"},
        details={"fractions": [{"percent": p, "mean": 10.0 + p, "spread": 1.0} for p in (1.0, 10.0)]},
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "semi.json").write_text(json.dumps(semi))
    (tmp_path / "more" / "broken.json").write_text("{")
    written = report([CARDS / "results", tmp_path / "more"], tmp_path / "out")
    names = {p.name for p in written}
    assert {"report.md", "report.html", "label-fraction-flowers17.png"} <= names
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.size) > 60
    text = (tmp_path / "out" / "report.md").read_text()
    assert "byol_r18_mini, random init" in text
    with pytest.raises(UserError, match="holds no result"):
        report([tmp_path / "out"], tmp_path / "again")


def font(folder: Path, family: str, glyphs: str) -> Path:
    """A TrueType file in which every one of ``glyphs`` is a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, names = pen.glyph(), [".notdef", *(f"u{ord(glyph):04X}" for glyph in glyphs)]
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(names)
    made.setupCharacterMap(dict(zip(map(ord, glyphs), names[1:], strict=True)))
    made.setupGlyf(dict.fromkeys(names, square))
    made.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    made.setupHorizontalHeader(ascent=880, descent=-120)
    made.setupNameTable({"familyName": family, "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.save(folder / "font.ttf")
    return folder / "font.ttf"


def test_names_in_other_scripts_are_drawn_with_a_font_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(name: str) -> tuple[bytes, bool]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            row = tables.TableRow("measured", (name,), "r.json")
            write_png(tables.Table("sets", "Sets", ("data",), (row,)), tmp_path / "a.png")
        return (tmp_path / "a.png").read_bytes(), any("missing from font" in str(w.message) for w in told)

    fonts = [entry for entry in fontManager.ttflist if entry.name.startswith("DejaVu")]
    monkeypatch.setattr(fontManager, "ttflist", fonts)
    plain, missing = drawn("cat")
    boxes, missing_there = drawn("猫고양이")
    assert (missing, missing_there) == (False, True)
    fontManager.addfont(font(tmp_path, "Noto Sans CJK JP", "猫고양이"))
    assert drawn("cat") == (plain, False)
    squares, missing = drawn("猫고양이")
    assert not missing
    assert squares != boxes


def test_a_folder_given_beside_one_in_it_is_read_once() -> None:
    outer = CARDS / "results" / "simclr_r18_mini.tin32"
    inner = tables.load_results([outer / "protocols"])
    both = tables.load_results([outer / "protocols", outer])
    assert inner
    assert len(both) > len(inner)
    assert len(both) == len(tables.load_results([outer]))


def test_the_map_is_flat_for_any_number_of_points() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 3, 6, 40):
        positions = tsne(rng.normal(size=(count, 12)).astype(np.float32))
        assert positions.shape == (count, 2)
        assert np.isfinite(positions).all()
        assert 0 <= positions.min() <= positions.max() <= 1


def test_the_map_opens_offline_in_a_browser(tmp_path: Path, photos: Any) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here to open the page")
    count = len(photos)
    features = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    labels = np.arange(count) % 2
    page = tmp_path / "map.html"
    write_map(features, labels, labels[::-1].copy(), photos, ["a</script>", "b"], page, title="<i>map</i>")
    assert "http" not in page.read_text().replace("http-equiv", "")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=10000", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    assert f'data-drawn="{count}"' in shown
    assert f'<span id="count">{count}</span>' in shown
    assert "&lt;i&gt;map&lt;/i&gt;" in shown
