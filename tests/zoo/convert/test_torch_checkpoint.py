"""Files of torch and pickled arrays: what they may hold is read, everything else is refused by its name."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zoo.convert.readers.safe_pickle import read_pickle
from zoo.convert.readers.torch_checkpoint import load_torch, read_torch, state_dict_of
from zoo.errors import UserError


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


RECONSTRUCT = np.zeros(1).__reduce__()[0]  # numpy's, under the name that this numpy gives it


@pytest.mark.parametrize("protocol", range(2, 5))
def test_dicts_and_arrays_come_back(protocol: int, tmp_path: Path) -> None:
    tree = {
        "a": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "b": OrderedDict(n=np.array([2**40])),
        "c": "text",
    }
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(tree, protocol=protocol))
    found = read_torch(tmp_path / "m.pkl").content
    assert (list(found), found["c"]) == (["a", "b", "c"], "text")
    assert torch.equal(found["a"]["w"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(found["b"]["n"], torch.tensor([2**40]))
    assert type(read_pickle(pickle.dumps(tree, protocol=protocol), "m")["b"]) is dict


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Call(print, "ran"), r"builtin__\.print is not on the allow-list"),
        (Call(codecs.encode, "x", "rot13"), "encoding 'rot13'"),
        (Call(RECONSTRUCT, dict, (0,), b"b"), "an array subclass"),
        (np.ma.masked_array([1.0]), "is not on the allow-list"),
        (complex(1, 2), r"builtin__\.complex is not on the allow-list"),
    ],
)
def test_a_pickle_that_asks_for_more_is_refused(content: object, message: str, tmp_path: Path) -> None:
    data = pickle.dumps({"w": content}, protocol=2)
    with pytest.raises(UserError, match=rf"^m\.pkl is refused: .*{message}"):
        read_pickle(data, "m.pkl")
    (tmp_path / "m.pkl").write_bytes(data)
    with pytest.raises(UserError, match=rf"^m\.pkl is refused: .*{message}"):
        read_torch(tmp_path / "m.pkl")


def test_arrays_that_are_no_numbers_and_dicts_in_themselves_are_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    for tree in ({"w": np.array(["text"])}, endless):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(tree, protocol=2))
        with pytest.raises(UserError, match=r"^m\.pkl is refused: "):
            read_torch(tmp_path / "m.pkl")


@pytest.mark.parametrize("name", ["m.pkl", "m.pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_s_own_files_are_read_under_any_name(name: str, zipped: bool, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_torch(tmp_path / name).content["w"], torch.ones(2))


def test_what_is_no_dict_or_not_there_is_named(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"^m\.pth holds a list, not a dict of tensors"):
        read_torch(tmp_path / "m.pth")
    for name in ("none.pth", "none.pkl"):
        with pytest.raises(UserError, match=rf"cannot read .*{name}: No such file"):
            read_torch(tmp_path / name)
    (tmp_path / "text.pth").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"^text\.pth is refused"):
        read_torch(tmp_path / "text.pth")


def test_safetensors_are_read_and_any_other_failure_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors", metadata={"a": "b"})
    assert torch.equal(read_torch(tmp_path / "m.safetensors").content["w"], torch.ones(2))

    def fails(*_: Any, **__: Any) -> None:
        raise AttributeError("no such thing")

    torch.save({"w": torch.ones(2)}, tmp_path / "m.pth")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(UserError, match=r"^m\.pth is refused: AttributeError: no such thing$"):
        load_torch(tmp_path / "m.pth")


def test_memory_that_is_not_there_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any, **__: Any) -> None:
        raise MemoryError

    torch.save({"w": torch.ones(2)}, tmp_path / "m.pth")
    monkeypatch.setattr(torch, "load", short)
    with pytest.raises(MemoryError):
        load_torch(tmp_path / "m.pth")
    monkeypatch.setattr("zoo.convert.readers.torch_tree._Tree.load", short)
    with pytest.raises(MemoryError):
        read_torch(tmp_path / "m.pth")
    monkeypatch.setattr("zoo.convert.readers.safe_pickle._OfficialFile.load", short)
    with pytest.raises(MemoryError):
        read_pickle(b"", "m")


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_the_state_dict_lies_under_a_usual_key_or_is_the_file(key: str) -> None:
    tensors = {"w": torch.ones(2)}
    loaded = {key: {**tensors, "step": 3, 7: torch.ones(1)}, "other": torch.zeros(1)}
    assert list(state_dict_of(loaded)) == ["w"]
    assert list(state_dict_of({**tensors, key: "resnet50"})) == ["w"]
    assert list(state_dict_of({"state_dict": {**tensors, key: {"inner": torch.ones(1)}}})) == ["w"]
    assert list(state_dict_of({"model": tensors, "state_dict": {"first": torch.ones(1)}})) == ["first"]


class State:
    """An official code's record class, as its pickles name it."""


def as_named(data: bytes, name: str) -> bytes:
    """The same pickle of ``State``, with the class under another name of the same length."""
    return data.replace(f"c{State.__module__}\nState\n".encode(), f"c__main__\n{name}\n".encode())


def test_record_classes_become_dicts_and_only_those_of_the_official_codes() -> None:
    state = State()
    state.__dict__.update(_mapping={"w": np.ones(2)})
    data = pickle.dumps(state, protocol=2)
    found = read_pickle(as_named(data, "FlatMapping"), "m")
    assert isinstance(found, dict)
    assert found["w"].tolist() == [1, 1]
    with pytest.raises(UserError, match=r"__main__\.Flattery is not on the allow-list"):
        read_pickle(as_named(data, "Flattery"), "m")
    with pytest.raises(UserError, match=r"FlatMapping is not on the allow-list"):
        read_pickle(as_named(data, "FlatMapping").replace(b"c__main__", b"cos"), "m")


def test_a_record_has_as_many_values_as_names() -> None:
    """dill's named tuples: the class is made first, by name and fields, then called."""

    def record(values: bytes) -> bytes:
        fields = b"(X\x03\0\0\0tauX\x02\0\0\0lrt"
        return b"\x80\x02cdill._dill\n_create_namedtuple\n(X\x04\0\0\0Step" + fields + b"tR(" + values + b"tR."

    assert read_pickle(record(b"K\x01K\x02"), "m") == {"tau": 1, "lr": 2}
    with pytest.raises(UserError, match="argument 2 is longer"):
        read_pickle(record(b"K\x01K\x02K\x03"), "m")
