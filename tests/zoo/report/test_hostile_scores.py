"""Result files of a stranger: in the report, in cards and in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostile_json import mutations
from PIL import Image

from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.errors import EXIT_USER_ERROR, UserError
from zoo.evaluate.result import read_result
from zoo.publish.card import gather, scores
from zoo.publish.card.gather import CARDS, check_training
from zoo.report import figures, tables
from zoo.report.generate import report
from zoo.report.render import to_html, to_markdown
from zoo.system.json_reader import BadJson, parse_json

RESULTS = CARDS / "results" / "byol_r18_mini.tin32"
SEMI = {
    "protocol": "semi-supervised",
    "metric": "top-1",
    "score": 61.2,
    "interval_95": [60.0, 62.5],
    "parameters": {"mode": "fine-tuned", "labels": "published lists"},
    "metrics": {"top-1 1%": 53.2},
    "details": {"fractions": [{"percent": 1.0, "mean": 50.0, "spread": 1.0}]},
    "data": {"name": "imagenet", "train": {"images": 9, "sha256": "a"}},
    "model": {"name": "byol_r50.deepmind_in1k", "model": "byol_r50.deepmind_in1k", "dim": 2048, "parameters": 23508032},
    "options": {"seed": 0},
}


def test_any_result_is_a_row_or_one_line(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    rows = refused = 0
    for what, data in mutations(SEMI):
        file.write_bytes(data)
        try:
            found = tables.load_results([tmp_path])
        except UserError as error:
            said, refused = str(error), refused + 1
            if "\n" in said or len(said) > 1000:
                raise AssertionError(what) from error
            continue
        rows += 1
        built = tables.build(found)
        to_markdown(built, [])
        to_html(built, [])
    assert rows > 50
    assert refused > 150


def test_any_result_of_a_card(tmp_path: Path) -> None:
    good = json.loads((RESULTS / "knn.cifar10-jpeg.byol_r18_mini.json").read_text())
    del good["details"]
    for what, data in list(mutations(good))[::3]:
        (tmp_path / "result.json").write_bytes(data)
        try:
            found = gather.read_results(tmp_path)
            scores.table(found)
        except UserError as error:
            said = str(error)
            if "\n" in said or len(said) > 1000:
                raise AssertionError(what) from error


def test_any_record_of_a_training_is_refused_or_written() -> None:
    from dataclasses import replace

    from zoo.publish.card import training

    good = json.loads((RESULTS / "training.json").read_text())
    facts = gather.registry_facts("byol_r18_mini")
    for key in ("loss", "knn_monitor"):
        del good[key]
    for _, data in mutations(good):
        try:
            record = check_training(parse_json(data))
        except BadJson:
            continue
        training.section(replace(facts, training=record))
        training.compute(replace(facts, training=record))


HOSTILE = "<script>alert(1)</script>|[a](http://x.y)`*b*\x1b[31m\n# www.x.y $\\frac{ @all"


def test_a_name_is_shown_and_is_no_markup(tmp_path: Path) -> None:
    told = {**SEMI, "model": {"name": HOSTILE}, "metric": HOSTILE, "data": {"name": HOSTILE}}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a<b>.json").write_text(json.dumps(told))
    written = report([tmp_path / "in"], tmp_path / "out")
    markdown = (tmp_path / "out" / "report.md").read_text()
    (line,) = (line for line in markdown.splitlines() if "script" in line and "measured" in line)
    assert line.startswith(
        "| **measured** | &lt;script&gt;alert(1)&lt;/script&gt;\\|\\[a\\](http&#58;//x.y)\\`\\*b\\*\\\\x1b"
    )
    assert "www&#46;x.y" in line
    assert "&#64;all" in line
    assert line.endswith("| a&lt;b&gt;.json |")
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (markdown, page):
        assert "<script" not in text
        assert "\x1b" not in text
    for path in written:  # a dollar is no formula
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert max(image.size) < 20_000


def test_a_file_that_claims_to_be_a_result_and_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other JSON files, and files that are none, are not results, and nobody asked for them."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.json").write_text(json.dumps(SEMI))
    (tmp_path / "in" / "other.json").write_text("[" * 100_000)
    assert len(tables.load_results([tmp_path])) == 1
    (tmp_path / "in" / "bad\x1b[2J.json").write_text(json.dumps(SEMI)[:-1])
    monkeypatch.setattr("sys.argv", ["zoo", "report", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert exit_code(app, "zoo", "") == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "bad\\x1b[2J.json is no result of `zoo evaluate` (it is no JSON)" in said


def test_the_label_fractions_of_any_result_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({**SEMI, "data": {"name": "../" + HOSTILE}}))
    (drawn,) = figures.draw_results([read_result(tmp_path / "r.json")], tmp_path)
    assert drawn.parent == tmp_path
    assert drawn.stat().st_size > 1000
