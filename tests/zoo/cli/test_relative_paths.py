"""A list whose paths begin at the folder of the user, not at its own: the end of the command says where they begin."""

from __future__ import annotations

from pathlib import Path

import pytest
from extraction_driver import run
from pictures import fill

from zoo.cli.messages import print_extraction


def test_paths_that_begin_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "photos", 2)
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "photos").iterdir())
    for name, lines, hint in (("wrong", names, True), ("right", [f"../{one}" for one in names], False)):
        (tmp_path / "lists" / f"{name}.txt").write_text("\n".join(lines))
        print_extraction(run(Path("lists") / f"{name}.txt", tmp_path / name), tmp_path / name)
        said = capsys.readouterr().err
        assert (
            f"paths of {name}.txt begin at its folder, {tmp_path / 'lists'}; {names[0]} is there from" in said
        ) == hint
    (tmp_path / "here.txt").write_text("gone.jpg\n")
    print_extraction(run(Path("here.txt"), tmp_path / "here"), tmp_path / "here")
    assert "begin at" not in capsys.readouterr().err
