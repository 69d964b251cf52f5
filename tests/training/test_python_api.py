"""Training from Python: a recipe as a value, a torch data set, loggers, methods and recipes of other packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import step_reports, tiny, tiny_run

import training
from training.engine.checkpoint import load_last
from training.methods import build_method, find_method
from training.monitoring.loggers import LOGGERS
from training.recipes import plugins, table
from zoo.datasets.dataset import Dataset
from zoo.datasets.torch_dataset import from_torch
from zoo.errors import UserError
from zoo.system.json_types import JSON


class Pictures:
    """A map-style data set with labels, as torchvision's are."""

    def __init__(self, kind: str = "pil", count: int = 24) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 40, 36, 3), dtype=np.uint8)
        self.targets = [i % 2 for i in range(count)]
        self.kind = kind

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> object:
        image = self.pixels[index]
        match self.kind:
            case "pil":
                return Image.fromarray(image), self.targets[index]
            case "tensor":
                return image.transpose(2, 0, 1), self.targets[index]
            case "dict":
                return {"image": Image.fromarray(image), "label": self.targets[index]}
            case _:
                return image


class Lines:
    """A logger that keeps what it is told."""

    def __init__(self, folder: Path, step: int, recipe: dict[str, JSON]) -> None:
        self.lines: list[tuple[int, dict[str, object]]] = []
        self.closed, self.step, self.recipe = 0, step, recipe

    def log(self, step: int, values: Mapping[str, object]) -> None:
        self.lines.append((step, dict(values)))

    def close(self) -> None:
        self.closed += 1


def test_training_from_python_with_a_torch_data_set_and_a_logger(tmp_path: Path) -> None:
    opened: list[Lines] = []

    def logger(folder: Path, step: int, recipe: dict[str, JSON]) -> Lines:
        opened.append(Lines(folder, step, recipe))
        return opened[-1]

    recipe = tiny("simsiam")
    checkpoint = training.train(recipe, Pictures(), tmp_path / "run", device="cpu", loggers=[logger])
    assert checkpoint == tmp_path / "run" / "checkpoint-00000006.pt"
    (first,) = opened
    assert (first.closed, first.step, first.recipe["method"]) == (1, 0, "simsiam")
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [{"step": step, **values} for step, values in first.lines] == logged
    assert any("probe" in values or "loss" in values for _, values in first.lines)
    # again: the run that is there is complete
    assert training.train(recipe, Pictures(), tmp_path / "run", device="cpu") == checkpoint
    changed = replace(recipe, optim=replace(recipe.optim, lr=0.5))
    with pytest.raises(UserError, match=r"holds another run: its optim\.lr"):
        training.train(changed, Pictures(), tmp_path / "run", device="cpu")


@pytest.mark.parametrize("kind", ["pil", "tensor", "dict", "array"])
def test_items_of_a_torch_data_set(kind: str) -> None:
    pictures = Pictures(kind)
    dataset = from_torch(pictures, name="mine")
    assert np.array_equal(dataset.pixels(3), pictures.pixels[3])
    assert (len(dataset), dataset.classes) == (24, ["0", "1"])
    assert dataset.required_labels.tolist() == pictures.targets


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        ([], None, "mine has no images"),
        ([np.zeros((3, 4, 4), np.float32)], None, r"mine\[0\] is ndarray \(4, 4, 3\) of float32: give PIL images"),
        ([Image.new("RGB", (4, 4))], [0, 1], r"mine: 1 images and labels \(2,\) of int64: give a number for each"),
        ([Image.new("RGB", (4, 4))], [[0, 2]], r"labels \(1, 2\)"),
        ([Image.new("RGB", (4, 4))], [-1], "has the label -1"),
        (["text"], None, r"mine\[0\] is str"),
    ],
)
def test_what_is_no_data_set_is_one_line(data: list[object], labels: list[int] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_torch(data, name="mine", labels=labels)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module_here:recipe", r"no_such_module_here cannot be imported \(ModuleNotFoundError"),
        ("json:recipe", "json has no recipe"),
        ("json:loads()", "is not MODULE:NAME"),
        ("missing.py:recipe", r"no file missing\.py"),
        ("json:JSONDecoder", "is no recipe: it must be a training.Recipe"),
        ("byol_r18_tin3", "did you mean byol_r18_tin32"),
        ("zzz", "unknown recipe 'zzz': `zoo-train recipes` lists all"),  # no guess is better than a wild one
    ],
)
def test_what_is_no_recipe_is_one_line(reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table.find(reference)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("byoll", "did you mean byol"),
        ("zzz", "unknown method 'zzz': one of byol"),
        ("json:JSONDecoder", "must be a subclass of training.Method"),
    ],
)
def test_what_is_no_method_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_method(name)


OWN = """
from torch import nn
from training import Method, Recipe
from training.methods.base import recipe_encoder

class Mine(Method):
    {start}
    def __init__(self, encoder, dim):
        super().__init__()
        self.encoder, self.projector = encoder, nn.Linear(dim, 8)

    @classmethod
    def from_recipe(cls, recipe):
        encoder, dim = recipe_encoder(recipe)
        return cls(encoder, dim)

    def forward(self, views, labels=None):
        loss = sum(self.projector(self.encoder(view)).square().mean() for view in views)
        return {loss}
    {end}
"""


def own_method(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, **parts: str) -> str:
    """Write a module of its own name with a method, and return the method's reference."""
    defaults = {"start": "", "loss": '{"loss": loss}', "end": ""}
    text = OWN
    for part, value in (defaults | parts).items():
        text = text.replace(f"{{{part}}}", value)
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    return f"{name}:Mine"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"end": "del forward"}, "has no forward of its own: from_recipe builds a method"),
        ({"end": "del from_recipe"}, "has no from_recipe of its own"),
        ({"start": "uses_rows = True"}, "give its from_recipe the argument images, and its forward a third one, rows"),
        (
            {"end": "def __init__(self, encoder, dim): nn.Module.__init__(self)"},
            "has no encoder: its __init__ must set",
        ),
        ({"end": "projector = property(lambda self: 3, lambda self, value: None)"}, "has no projector: its __init__"),
    ],
)
def test_a_method_without_what_all_have_is_one_line(
    parts: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    name = own_method(tmp_path, f"own_parts_{abs(hash(request.node.name))}", monkeypatch, **parts)
    with pytest.raises(UserError, match=message):
        build_method(tiny(name), 8)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("loss", "returned Tensor: it must return a dict of losses"),
        ('{"invariance": loss}', "returned a dict of invariance: one of its losses must be called 'loss'"),
        ("{}", "returned a dict of nothing: one of"),
        ('{"loss": loss.expand(4)}', r"'loss' of .* is a tensor of shape \[4\]: a loss is a tensor without axes"),
        ('{"loss": loss, "more": 0.5}', "'more' of .* is float: a loss is a tensor"),
        ('{"loss": loss.detach()}', "has a gradient: compute it from what self.encoder returns, undetached"),
        ('{"loss": loss.detach(), "more": loss}', ""),
    ],
)
def test_losses_of_another_form_are_one_line(
    loss: str, message: str, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = own_method(tmp_path, f"own_losses_{abs(hash(loss))}", monkeypatch, loss=loss)
    run = tiny_run(tiny(name, architecture="tiny10"), photos, tmp_path)
    with pytest.raises(UserError, match=message) if message else nullcontext():
        step_reports(run, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "my-method.py:recipe",
            "my-method.py is imported as a module: give it a name of letters, digits and underscores",
        ),
        ("my method.py:recipe", "is imported as a module: give it a name"),
        ("random.py:recipe", r"random.py is hidden by another module random \(.*random\.py\): rename it"),
        ("mine_alone.py", "mine_alone.py is a file: give FILE.py:NAME, such as mine_alone.py:recipe"),
        ("mine_alone.py:Mine", "is no recipe: it must be a training.Recipe, or a function that returns one"),
    ],
)
def test_the_name_of_a_file_of_one_s_own(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for file in ("my-method.py", "my method.py", "random.py", "mine_alone.py"):
        (tmp_path / file).write_text("class Mine:\n    def __init__(self, size):\n        self.size = size\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        table.find(name)


def test_a_module_that_fails_is_one_line_and_the_working_folder_hides_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    (tmp_path / "json.py").write_text("recipe = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError, match=r"broken_module cannot be imported \(ZeroDivisionError: division by zero\)"):
        plugins.import_object("broken_module:recipe")
    with pytest.raises(UserError, match="json has no recipe"):
        plugins.import_object("json:recipe")


def test_entry_points_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
    points = "[siamese_zoo.recipes]\nmine_r18 = entry_module:recipe\n[siamese_zoo.methods]\nmine = entry_module:Mine\n"
    (info / "entry_points.txt").write_text(points)
    (tmp_path / "entry_module.py").write_text(
        "from training import Method, Recipe\n"
        "class Mine(Method):\n"
        "    @classmethod\n"
        "    def from_recipe(cls, recipe): return cls()\n"
        "    def forward(self, views, labels=None): return {}\n"
        "def recipe(): return Recipe('x', 'mine', 'r18')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert table.find("mine_r18").method == "mine"
    assert find_method("mine").__name__ == "Mine"


def test_the_names_of_the_package_are_there_and_are_imported_late() -> None:
    for name in training.__all__:
        assert getattr(training, name) is not None
    with pytest.raises(AttributeError):
        training.nothing  # noqa: B018
    code = "import sys, training; assert 'torch' not in sys.modules; training.Recipe; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_loggers_write_offline_and_go_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    recipe = replace(tiny("simsiam"), checkpoint_steps=1000)
    folder = tmp_path / "run"
    training.train(recipe, Pictures(), folder, device="cpu", loggers=[LOGGERS[name]])
    again = LOGGERS[name](folder, 6, {"name": "again"})
    again.log(7, {"loss": 1.0, "hardware": "a text is not a number"})
    again.close()
    last = load_last(folder)
    assert last is not None
    match name:
        case "wandb":
            assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
        case "mlflow":
            from mlflow import MlflowClient

            client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
            (run,) = client.search_runs(["0"])
            assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [6, 7]
            assert run.data.params["optim.batch_size"] == "8"
        case _:
            assert list((folder / "tensorboard").glob("events*"))
