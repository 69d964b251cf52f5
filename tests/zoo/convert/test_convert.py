"""Readers of official files run nothing and read every layout."""

from __future__ import annotations

import collections
import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.convert import byol, simsiam
from zoo.convert.readers.safe_pickle import read_pickle
from zoo.errors import UserError


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    data = pickle.dumps({"experiment_state": Payload(marker)}, protocol=protocol)
    with pytest.raises(UserError, match="is not on the allow-list"):
        read_pickle(data, "evil.pkl")
    assert not marker.exists()
    pickle.loads(data)  # the payload is real
    assert marker.exists()


@pytest.mark.parametrize("form", ["plain", "zip", "legacy"])
def test_a_malicious_torch_file_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth.tar"
    content = {"state_dict": Payload(marker)}
    if form == "plain":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        assert zipfile.is_zipfile(path) == (form == "zip")
    with pytest.raises(UserError, match=r"evil\.pth\.tar is"):
        simsiam.read(path)
    assert not marker.exists()


@pytest.mark.parametrize("cut", [0, 1, 50, 5000])
def test_a_truncated_pickle_is_a_users_error(goldens: Path, tmp_path: Path, cut: int) -> None:
    whole = (Path(__file__).parents[2] / "goldens" / "byol_r14_free.init.pkl").read_bytes()
    path = tmp_path / "cut.pkl"
    path.write_bytes(whole[:cut])
    with pytest.raises(UserError, match=r"cut\.pkl"):
        byol.read(path)


def fake_class(module: str, name: str) -> type:
    """A class that pickles as ``module.name``; the module exists while the test runs only."""
    cls = type(name, (dict,), {"__module__": module})
    sys.modules.setdefault(module, types.ModuleType(module)).__dict__[name] = cls
    return cls


@pytest.mark.parametrize("form", ["five values", "one dict"])
@pytest.mark.parametrize("mapping", ["FlatMapping", "frozendict", "dict"])
def test_other_layouts_of_the_state_are_read(monkeypatch: pytest.MonkeyPatch, form: str, mapping: str) -> None:
    fields = ["online_params", "target_params", "online_state", "target_state", "opt_state"]
    for module in ("haiku", "haiku._src", "haiku._src.data_structures"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    make = dict if mapping == "dict" else fake_class("haiku._src.data_structures", mapping)
    values = [make({f: {"w": np.arange(3.0)}}) for f in fields]
    if form == "five values":
        state_class = collections.namedtuple("BYOLState", fields)
        state_class.__module__ = "__main__"
        monkeypatch.setattr(sys.modules["__main__"], "BYOLState", state_class, raising=False)
        state = state_class(*values)
    else:
        state = dict(zip(fields, values, strict=True))
    tree = read_pickle(pickle.dumps({"experiment_state": state}, protocol=2), "other.pkl")
    assert list(tree["experiment_state"]) == fields
    np.testing.assert_array_equal(tree["experiment_state"]["opt_state"]["opt_state"]["w"], np.arange(3.0))


def test_an_array_subclass_is_refused() -> None:
    data = pickle.dumps(np.ma.masked_array([1.0]), protocol=2)
    with pytest.raises(UserError, match="refused"):
        read_pickle(data, "masked.pkl")


def test_both_numpy_module_names_are_read() -> None:
    data = pickle.dumps(np.arange(4, dtype=np.float32), protocol=2)
    old = data.replace(b"numpy._core.", b"numpy.core.")  # NumPy 1's names
    new = old.replace(b"numpy.core.", b"numpy._core.")  # NumPy 2's
    assert b"numpy.core.multiarray" in old
    assert b"numpy._core.multiarray" in new
    for form in (old, new):
        np.testing.assert_array_equal(read_pickle(form, "a.pkl"), np.arange(4, dtype=np.float32))


def test_a_file_without_the_state_dict_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"epoch": 3}, buffer)
    (tmp_path / "x.pth.tar").write_bytes(buffer.getvalue())
    with pytest.raises(
        UserError, match="is not a checkpoint of SimSiam's official code \\(no state_dict in it\\); without --from"
    ):
        simsiam.read(tmp_path / "x.pth.tar")
