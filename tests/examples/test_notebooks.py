"""The notebooks run from the first cell to the last, plots included, in a folder of their own.

They need Jupyter, which is not in dev: `pip install nbclient ipykernel`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
SLOW = "compare_methods"  # five runs


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem == SLOW else []) for path in NOTEBOOKS],
)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="runs notebooks")
    nbclient = pytest.importorskip("nbclient", reason="runs notebooks")
    pytest.importorskip("ipykernel", reason="runs notebooks")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("EPOCHS", "2")
    if path.stem == SLOW:
        rng = np.random.default_rng(0)
        np.savez(
            tmp_path / "small.npz", images=rng.integers(0, 256, (40, 32, 32, 3), np.uint8), labels=np.arange(40) % 2
        )
        monkeypatch.setenv("DATA", str(tmp_path / "small.npz"))
        monkeypatch.setenv("BATCH", "16")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no plot"
    printed = "".join(output.get("text", "") for output in outputs)
    if path.stem == SLOW:
        runs = {folder.name: (folder / "log.jsonl").read_text() for folder in (tmp_path / "runs").iterdir()}
        assert set(runs) == {"byol", "simsiam", "simclr", "mocov2", "simsiam_fast", "simsiam_no_stop_gradient"}
        assert all('"spread"' in log and '"knn"' in log for log in runs.values())
    elif path.stem == "quickstart":
        assert "24 of 24 images have an embedding" in printed
        html = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
        assert sum("<img" in text for text in html) >= 2  # the result, and the neighbours
    else:
        assert (tmp_path / "mine.safetensors").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean_and_has_a_badge(path: Path) -> None:
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert f"/examples/notebooks/{path.name})" in "".join(notebook["cells"][0]["source"])
