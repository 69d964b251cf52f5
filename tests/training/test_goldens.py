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

import numpy as np
from golden_files import find_goldens, not_compared

TESTS = Path(__file__).parents[1]
FILES = [
    TESTS / "training" / "data" / "test_rand_augment.py",
    *sorted((TESTS / "training" / "methods").glob("test_*.py")),
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


KINDS = {
    name
    for gathered, function in globals().copy().items()
    if "_in_" in gathered
    for name in inspect.signature(function).parameters
}


def test_the_folder_has_goldens_and_all_of_them_are_compared(goldens: Path) -> None:
    assert find_goldens(goldens), f"{goldens} has no outputs of an official code"
    assert not_compared(goldens, KINDS) == []


def test_a_folder_without_goldens_or_with_unknown_ones_is_noticed(tmp_path: Path) -> None:
    assert find_goldens(tmp_path) == {}
    (tmp_path / "kept.json").write_text('{"method": "unheard_of"}')
    (tmp_path / "no_arrays.json").write_text('{"method": "cmc"}')
    np.savez(tmp_path / "kept.npz", loss=np.zeros(3))
    np.savez(tmp_path / "operations.npz", anything=np.zeros(3))
    np.savez(tmp_path / "full.npz", full_output=np.zeros(3))
    find_goldens.cache_clear()
    assert not_compared(tmp_path, KINDS) == ["kept", "operations"]
