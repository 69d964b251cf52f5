"""Write ``docs/methods.md``: what this project has of each method, from the code, the registry and the measured JSON.

    python docs/methods_table.py

``render`` returns the page; a test compares it with the file.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
SAME = {"mocov2": "moco"}  # training's name of a method, and the registry's
NO_MODEL = {"byol_gn": "BYOL without BN"}  # methods that no entry of the registry has
NO_CODE = dict.fromkeys(("byol_gn", "cpc"), "no official code")  # docs/training/byol_gn.md, cpc.md
_FIXTURE = re.compile(r"\b([a-z0-9]+?)(?:_pycontrast)?_(?:group|ops)\b")

HEAD = """# Methods

What this project has of each method:

- **trains**: the recipe with the authors' constants on ImageNet, or a small one where no such recipe is here.
- **golden**: the tests compare with outputs of the official code, or with formulas where none was published.
- **weights**: sets that load by name (`zoo list --tags --method NAME`); "by hand": a person downloads the file first.
- **measured here**: kNN / linear top-1 on CIFAR-10 (JPEG) of a small network after one epoch, from
  {measured}.
  Compare them with each other and with random weights ({random}), not with published numbers.
- **published**: linear top-1 on ImageNet of a ResNet-50 (CMC: two of them), the best of the registry, and its source.

"""
TAIL = """
A `-` in the column of weights means that nobody released any. Elsewhere it means that this project does not train the
method, compares it with no official code, or has not measured it with the others. [Choose and fetch a
model](how-to/models.md) has all names. This page is written by `python docs/methods_table.py`.
"""


def render() -> str:
    """Return the page."""
    from training.methods.find import METHODS as TRAINED
    from zoo.models.registry import MODELS
    from zoo.publish.card.wording import METHODS as TEXTS

    file, measured = measured_here()
    recipes, goldens = recipes_by_method(), with_goldens()
    names = list(dict.fromkeys([*TRAINED, *(back(spec.method) for spec in MODELS.values())]))
    lines = [
        "| method | `--method` | trains | golden | weights | measured here | published |",
        "|---|---|---|---|---|---:|---|",
    ]
    for name in names:
        title = TEXTS[SAME.get(name, name)].title if SAME.get(name, name) in TEXTS else NO_MODEL.get(name, name)
        recipe = recipes.get(name)
        cells = (
            title[:1].upper() + title[1:],
            f"`{SAME.get(name, name)}`",
            f"`{recipe}`" if recipe else "-",
            "yes" if name in goldens else NO_CODE.get(name, "-"),
            weights(name),
            measured.get(name, "-"),
            published(name),
        )
        lines.append("| " + " | ".join(cells) + " |")
    head = HEAD.format(measured=f"`{file}`", random=measured.get("random", "-"))
    return head + "\n".join(lines) + "\n" + TAIL


def back(method: str) -> str:
    """The training name of a method of the registry."""
    return {ours: name for name, ours in SAME.items()}.get(method, method)


def recipes_by_method() -> dict[str, str]:
    """The recipe to name: the longest on ImageNet with a ResNet-50, else the first; MoCo v1 runs the code of v2."""
    from training.recipes.table import RECIPES

    found: dict[str, tuple[tuple[bool, bool, int], str]] = {}
    for name, entry in RECIPES.items():
        recipe = entry.make()
        method = name.partition("_")[0] if name.startswith("mocov1_") else recipe.method
        plain = re.fullmatch(r"\w+_in1k_\d+ep(_norandaug)?", name) is not None
        rank = (plain, recipe.architecture in ("r50", "r50_gn", "r50_ln", "cmc_r50"), recipe.optim.epochs)
        if method not in found or rank > found[method][0]:
            found[method] = (rank, name)
    return {method: name for method, (_, name) in found.items()}


def with_goldens() -> set[str]:
    """Methods whose tests take outputs of the official code, see ``tests/conftest.py``."""
    tests = (ROOT / "tests" / "training").rglob("test_*.py")
    return {match[1] for path in tests for match in _FIXTURE.finditer(path.read_text())}


def weights(name: str) -> str:
    """How many sets of weights the registry has, and how many of them only a person can get."""
    from zoo.models.registry import MODELS

    sets = [w for spec in MODELS.values() if spec.method == SAME.get(name, name) for w in spec.weights.values()]
    if not sets:
        return "-"
    by_hand = sum(1 for one in sets if one.by_hand)
    return f"{len(sets)}" + (f", {by_hand} by hand" if by_hand else "")


def published(name: str) -> str:
    """The best linear top-1 of a ResNet-50 in the registry, and its source."""
    from zoo.models.registry import LINEAR, MODELS

    specs = [s for s in MODELS.values() if s.method == SAME.get(name, name) and "r50" in s.architecture.split("_")]
    specs += [s for s in MODELS.values() if s.method == SAME.get(name, name) and s.architecture == "cmc_r50v2"]
    scores = [s for spec in specs for s in spec.scores] + [
        score for spec in specs for one in spec.weights.values() if one.data == "imagenet" for score in one.scores
    ]
    linear = [score for score in scores if score.protocol.startswith(LINEAR)]
    if not linear:
        others = [score for score in scores if score.protocol]
        return f"{others[0].text} {others[0].protocol} ({others[0].where})" if others else "-"
    best = max(linear, key=lambda score: score.value)
    return f"{best.text} ({best.where})"


def measured_here() -> tuple[str, dict[str, str]]:
    """The JSON of ``benchmarks/cifar10.py``, and its kNN / linear scores by method."""
    results = "benchmarks/results"
    file = next(f"{results}/{n}" for n in ("cifar10_methods.json", "cifar10_cpu.json") if (ROOT / results / n).exists())
    rows: list[dict[str, Any]] = json.loads((ROOT / file).read_text())["rows"]
    found = {row["name"]: f"{row['knn']['score']:.1f} / {row['linear']['score']:.1f}" for row in rows if "knn" in row}
    return file, found


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(render())
