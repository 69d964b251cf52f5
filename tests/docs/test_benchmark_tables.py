"""``docs/benchmarks.md`` is what ``benchmarks/tables.py`` writes, and every table has its command and its JSON."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# By its path: beside it lies a training.py, which must not hide the package.
_spec = importlib.util.spec_from_file_location("benchmark_tables", ROOT / "benchmarks" / "tables.py")
assert _spec is not None
assert _spec.loader is not None
tables = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = tables  # for its dataclass
_spec.loader.exec_module(tables)


def test_the_page_is_written_by_the_command() -> None:
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], check=False)
    assert done.returncode == 0, "run `python benchmarks/tables.py`"


def test_a_page_that_differs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    assert tables.main() == 1
    tables.PAGE.write_text(tables.page())
    assert tables.main() == 0
    tables.PAGE.write_text(tables.page().replace("images/s", "images/min", 1))
    assert tables.main() == 1


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.file)
def test_a_table_has_its_json_command_cpu_and_goal(table: Any) -> None:
    text = table.markdown()
    assert f"benchmarks/results/{table.file}" in table.command
    assert (ROOT / "benchmarks" / Path(table.command.split()[1]).name).is_file()
    for part in ("Goal: ", "CPU: ", "cores; ", f"]({'../benchmarks/results/' + table.file})", table.command):
        assert part in text
    assert all(line.count("|") == len(table.header) + 1 for line in text.splitlines() if line.startswith("|"))
