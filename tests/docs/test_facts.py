"""What the documentation says of numbers, names, files and links holds."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import ROOT

from zoo.models.registry import MODELS, Weights

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
README = (ROOT / "README.md").read_text()
FENCED = re.compile(r"^ *(`{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
GENERATED = {ROOT / "docs" / "reference" / "cli.md"}  # by docs/site_hooks.py
WRITTEN = re.compile(r"`((?:zoo|training|tests|benchmarks|examples|docs|model_cards|\.ci)/[\w./*-]*)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def load(path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / path).read_text())
    return loaded


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of the README, without its two first lines."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# ---------------------------------------------------------------- README


def test_readme_and_contributing_are_short() -> None:
    assert len(README.splitlines()) <= 170
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 72


def test_readme_has_the_commands_by_which_everybody_begins() -> None:
    assert "\npip install -e . && zoo extract --images examples/photos --out embeddings\n" in README
    assert '\npip install -e ".[dev]" && pytest\n' in README


def names(cell: str) -> list[str]:
    """``a_r50x2``, ``_r50x4`` are ``a_r50x2`` and ``a_r50x4``."""
    found = re.findall(r"`([\w.]+)`", cell)
    prefix = found[0].partition("_")[0]
    return [prefix + one if one.startswith("_") else one for one in found]


def numbers(cell: str) -> list[float]:
    return [float(text) for text in re.findall(r"\d+(?:\.\d+)?", cell)]


@pytest.mark.parametrize("row", rows("Models"), ids=lambda row: row[0])
def test_a_row_of_the_models_is_the_registry_s(row: list[str]) -> None:
    from zoo.models.registry import ARCHITECTURES

    specs = [MODELS[model] for model in names(row[0])]
    architectures = [ARCHITECTURES[spec.architecture] for spec in specs]
    weights: list[Weights] = [spec.weights[spec.default_tag] for spec in specs if spec.default_tag]
    assert len(weights) == len(specs)

    def once(values: list[Any]) -> list[Any]:
        return list(dict.fromkeys(values))

    assert numbers(row[1]) == once([a.num_features for a in architectures])
    assert numbers(row[2]) == once([w.preprocessing.input_size for w in weights])
    assert numbers(row[3]) == once([round(a.parameters / 1e6, 1) for a in architectures])
    assert numbers(row[4]) == [w.scores[0].value for w in weights if w.scores]
    assert ("not verified" in row[4]) == any(not w.scores[0].verified for w in weights if w.scores)
    assert [row[5]] == once([w.licence for w in weights])


def test_every_name_with_weights_is_on_the_page_of_models() -> None:
    page = (ROOT / "docs" / "how-to" / "models.md").read_text()
    section = page.partition("\n## All names\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    told = {model for cell in cells[1:] if "`" in cell for model in names(cell)}
    assert {model for model, spec in MODELS.items() if spec.weights} - told == set()
    assert {model for row in rows("Models") for model in names(row[0])} - told == set()


def test_what_the_readme_says_was_measured_is_in_the_json_files() -> None:
    scores, extraction, training = rows("Measured")
    for cell, model in zip(scores[1:], ("simclr_r18_mini", "simclr_r18_mini.random"), strict=True):
        result = load(f"model_cards/results/simclr_r18_mini.tin64/linear.cifar10-jpeg.{model}.json")
        assert numbers(cell.replace("-", " ")) == [round(n, 1) for n in (result["score"], *result["interval_95"])]
    best = load("benchmarks/results/extraction_r50.json")["best"]
    assert numbers(extraction[1]) == [round(best["zoo fp32"]["images_per_second"], 1)]
    assert numbers(extraction[2]) == [round(best["timm eager"]["images_per_second"], 1)]
    best = load("benchmarks/results/training_r18_cpu.json")["methods"]["byol"]["best"]
    assert numbers(training[1]) == [round(best["zoo"]["images_per_second"], 1)]
    assert numbers(training[2]) == [round(best["lightly"]["images_per_second"], 1)]


def test_the_scores_of_mutation_testing_are_those_of_the_json() -> None:
    found = load("benchmarks/results/mutation.json")
    script = runpy.run_path(str(ROOT / "benchmarks" / "mutation.py"))
    table = script["table"](found)
    assert f"\n{table}\n" in (ROOT / "benchmarks" / "README.md").read_text()
    contributing = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    tested, killed = (sum(module[key] for module in found["modules"].values()) for key in ("tested", "killed"))
    assert f"cosmic-ray {found['cosmic_ray']}'s operators" in contributing
    assert f"{killed} of {tested} mutants" in contributing
    for module, result in found["modules"].items():
        assert (ROOT / module).exists()
        assert result["tested"] - result["killed"] == len(result["survivors"])
    assert set(found["modules"]) == set(script["TESTS"])
    files = [
        file.partition("::")[0] for tests in script["TESTS"].values() for file in tests if file.startswith("tests/")
    ]
    assert [
        file for file in [*files, *(name.partition("::")[0] for name in script["SLOW"])] if not (ROOT / file).exists()
    ] == []


# ---------------------------------------------------------------- links and files


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_to_files(page: Path) -> None:
    text = FENCED.sub("", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        assert target in GENERATED or target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md" and target not in GENERATED:
            assert anchor in anchors(target), f"{link}: no such heading"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[\s_]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_the_text_names_exist(page: Path) -> None:
    text = FENCED.sub("", page.read_text())
    reasons = " ".join(re.findall(r"<!-- not run: (.*?) -->", text))
    for path in [*WRITTEN.findall(text), *re.findall(r"\btests/[\w./]+\w", reasons)]:
        assert any(ROOT.glob(path.rstrip("/"))), f"there is no {path}"


# ---------------------------------------------------------------- the site


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs")
    import site_hooks

    return site_hooks


def test_the_command_reference_has_every_command(hooks: Any) -> None:
    from typer.main import get_command

    from training.cli import app as train
    from zoo.cli.main import app as zoo

    text = hooks.command_reference()
    for program, app in (("zoo", zoo), ("zoo-train", train)):
        root: Any = get_command(app)
        for command in root.commands:
            assert f"\n### {program} {command}\n" in text
    assert "<code>--images &lt;" in text
    assert "255&lt;=x" in text  # Markdown would show the backslash of an escaped <
    assert "\\<" not in text


def test_the_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    index = (ROOT / "docs" / "index.md").read_text()
    table = index.partition("| extra | adds |")[2].partition("\n\n")[0]
    named = re.findall(r"`([\w-]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "`" in line))
    assert sorted(named) == sorted(set(extras) - {"dev-s3"})
    # What ``all`` leaves out is said there.
    (inside,) = re.findall(r"\[(.*)\]", extras["all"][0])
    above = named[: named.index("all")]
    assert set(above) - set(inside.split(",")) == {"openvino"}
    assert "| `all` | all of the above but `openvino` |" in table


def test_the_architecture_has_every_folder(hooks: Any) -> None:
    for package in ("zoo", "training"):
        told = set(re.findall(r"^\| `([\w/]+)/`", hooks.folder_table(package), re.MULTILINE))
        found = {str(init.parent.relative_to(ROOT)) for init in (ROOT / package).rglob("__init__.py")}
        assert told == found - {package}


def test_the_hub_entries_are_the_registry_s(hooks: Any) -> None:
    text = hooks.hub_entries()
    assert all(f"`{model}`" in text for model in MODELS)
    assert "pretrained=True" in text


@pytest.mark.slow  # .ci/run builds the site, too
def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text()):
            address = re.search(r"(?:src|href)=\"?(https?://[^\s\">]+)", tag)
            assert address is None or 'rel="canonical"' in tag, f"{page.name} loads {tag}"


def test_the_table_of_faults_names_tests_that_exist() -> None:
    page = ROOT / "tests" / "faults" / "README.md"
    rows = [
        line
        for line in page.read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| fault", "|--"))
    ]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row.split(" | ")[-1])
        assert named, row
        for path, test in named:
            assert f"\ndef {test}(" in (ROOT / "tests" / path).read_text(), (path, test)


def test_every_environment_variable_of_this_project_is_in_the_reference() -> None:
    files = [ROOT / "hubconf.py", *(p for folder in ("zoo", "training") for p in (ROOT / folder).rglob("*.py"))]
    own = re.compile(r"\b(?:SIAMESE_ZOO|ZOO_TRAIN)_[A-Z_]+\b")
    read = {found for path in files for found in own.findall(path.read_text())}
    told = set(own.findall((ROOT / "docs" / "reference" / "environment.md").read_text()))
    assert len(read) >= 4
    assert told == read
