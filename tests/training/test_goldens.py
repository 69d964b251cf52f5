"""Every comparison with outputs of an official code: ``pytest tests/training/test_goldens.py --goldens DIR``.

The tests stand beside the others of their method. They are gathered here: those that take a group or operations of
goldens (fixtures that end with ``_group`` and ``_ops``). A run that collects a method's own file, too, runs its tests
once, see ``pytest_collection_modifyitems`` in ``tests/conftest.py``.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = [
    TESTS / "training" / "data" / "test_rand_augment.py",
    *sorted((TESTS / "training" / "methods").glob("test_*.py")),
]
METHODS = [
    "barlowtwins",
    "byol",
    "cmc",
    "densecl",
    "infomin",
    "instdisc",
    "localagg",
    "mocov1",
    "mocov2",
    "mocov3",
    "pirl",
    "simclr",
    "simsiam",
    "swav",
    "vicreg",
]


def takes_goldens(function: object) -> bool:
    names = inspect.signature(function).parameters if inspect.isfunction(function) else ()
    return any(name.endswith(("_group", "_ops")) for name in names)


for file in FILES:
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = importlib.import_module(file.stem)
    for name, function in vars(module).copy().items():
        if name.startswith("test_") and takes_goldens(function):
            globals()[f"{name}_in_{file.stem.removeprefix('test_')}"] = function


def test_every_method_with_goldens_is_compared() -> None:
    text = " ".join(str(inspect.signature(value)) for name, value in globals().items() if "_in_" in name)
    assert [method for method in METHODS if f"{method}_group" not in text and f"{method}_ops" not in text] == []
