"""``zoo demo`` from a checkout; ``.ci/wheel`` runs it from an installed wheel."""

from __future__ import annotations

import re
import sys
import webbrowser
from pathlib import Path

import pandas
import pytest

from zoo.cli.app import exit_code
from zoo.cli.demo import PAGE, QUERIES
from zoo.cli.demo_crops import CROPS
from zoo.cli.main import app
from zoo.errors import EXIT_OK, EXIT_USER_ERROR
from zoo.search.collection import Collection
from zoo.search.index import open_index


def test_one_command_gives_a_page_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    out = tmp_path / "demo"
    command = ["zoo", "demo", "--out", str(out), "--device", "cpu"]
    for words, pages in ((["--no-browser"], 0), ([], 1)):
        monkeypatch.setattr(sys, "argv", [*command, *words])
        assert exit_code(app, "zoo", "go on") == EXIT_OK
        assert len(opened) == pages
    assert opened == [(out / PAGE).resolve().as_uri()]
    page = (out / PAGE).read_text()
    assert page.count("<section>") == len(QUERIES)
    assert page.count('src="data:image/jpeg;base64,') == len(QUERIES) * 6  # the query and five neighbours
    # The first screen is convincing: the nearest are crops of the same photograph, and never the query itself.
    for section, query in zip(page.split("<section>")[1:], QUERIES, strict=True):
        nearest = re.findall(r'<span title="(.*?)-\d\.jpg">', section)
        assert nearest[:3] == [query] * 3
        assert f'<span title="{query}-0.jpg">' not in section
    assert "no picture" not in page
    said = capsys.readouterr()
    assert str(out / PAGE) in said.out
    assert "is a small demo network" in said.err
    assert f"next: zoo serve {out / 'crop_embeddings'} --images {out / 'crops'} " in said.err
    for name in ("embeddings", "crop_embeddings"):
        assert open_index(Collection(out / name)).is_centred
    assert len(pandas.read_parquet(out / "embeddings")) == 24
    assert len(pandas.read_parquet(out / "crop_embeddings")) == 24 * CROPS
    assert "nothing was left to do" in said.out.splitlines()[-2]


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["zoo", "demo", "--out", str(tmp_path / "file"), "--no-browser"])
    assert exit_code(app, "zoo", "go on") == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert "choose another --out" in said
    assert said.count("\n") == 1
