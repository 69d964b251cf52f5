"""Tensors come out of a checkpoint whatever else was pickled into it, and nothing of that runs."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_files import narrow, network
from torch import nn

from zoo.convert.convert import convert
from zoo.convert.readers.torch_checkpoint import read_torch
from zoo.errors import UserError


class Settings(dict[str, Any]):
    """As Lightning's ``AttributeDict``: a class of a dict."""


class Runs:
    """An object whose pickle would make a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def schedule(step: int) -> float:
    return 1 / step


def everything(marker: Path) -> dict[str, object]:
    return {
        "args": argparse.Namespace(arch="resnet50", lr=0.1),
        "best": np.float64(71.5),
        "images": np.zeros(3),
        "hyper_parameters": Settings(lr=0.1, sizes=[1, 2]),
        "callbacks": {Settings: {"monitor": "loss"}, (1, 2): 3, 0.5: 4, True: 5},
        "optimizer": {"param_groups": [{"filter": schedule, "lr": 0.1}], "state": defaultdict(dict, {0: {"step": 1}})},
        "history": deque([1, 2]),
        "names": {"a", 1, (2, 3)},
        "frozen": frozenset([1]),
        "path": Path("x"),
        "slice": slice(1),
        "runs": Runs(marker),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_unknown_objects_are_dropped_by_name(zipped: bool, protocol: int, tmp_path: Path) -> None:
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8]
    tensors = {str(kind): torch.arange(6).to(kind).view(2, 3) for kind in kinds}
    tensors |= {"turned": tensors["torch.float32"].t(), "row": tensors["torch.int64"][1], "none": torch.zeros(0, 3)}
    tensors["parameter"] = nn.Parameter(torch.ones(2))
    path = tmp_path / "m.pth"
    content = {"state_dict": tensors, "epoch": 3} | everything(tmp_path / "ran")
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    file = read_torch(path)
    assert not (tmp_path / "ran").exists()
    found = file.content["state_dict"]
    for key, value in tensors.items():
        assert (found[key].dtype, found[key].stride()) == (value.dtype, value.stride())
        assert torch.equal(found[key], value), key
    assert found["turned"].untyped_storage().data_ptr() == found["torch.float32"].untyped_storage().data_ptr()
    assert file.content["epoch"] == 3
    assert file.content["optimizer"]["param_groups"] == [{"lr": 0.1}]
    assert file.dropped["args"] == "argparse.Namespace"
    assert file.dropped["runs"].endswith(".mkdir")
    assert file.dropped["optimizer.param_groups[0].filter"].endswith(".schedule")
    assert {"args", "best", "images", "path"}.isdisjoint(file.content)


def test_a_pickled_module_is_the_dict_of_its_tensors(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    torch.save({"model": module}, tmp_path / "m.pth")
    file = read_torch(tmp_path / "m.pth")
    assert torch.equal(file.content["model"]["0"]["weight"], module[0].weight)
    assert torch.equal(file.content["model"]["1"]["running_var"], torch.ones(2))
    assert file.dropped["model"].endswith("container.Sequential")


@pytest.mark.parametrize("kind", ["torch", "simsiam"])
def test_a_training_script_s_file_is_converted_and_what_was_dropped_is_told(kind: str, tmp_path: Path) -> None:
    state = network(narrow([1, 1, 1, 1])).state
    prefix = {"torch": "module.", "simsiam": "module.encoder."}[kind]
    content = {"state_dict": {prefix + key: value for key, value in state.items()}} | everything(tmp_path / "ran")
    torch.save(content, tmp_path / "m.pth")
    converted = convert(tmp_path / "m.pth", kind, tmp_path / "out")
    assert converted.dropped["args"] == "argparse.Namespace"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["torch", "simsiam", "moco", "swav"])
def test_weights_that_are_no_tensors_are_refused_with_the_remedy(kind: str, tmp_path: Path) -> None:
    state: dict[str, Any] = dict(network(narrow([1, 1, 1, 1])).state)
    state["bn1.weight"] = state["bn1.weight"].numpy()
    prefix = {"torch": "", "simsiam": "encoder.", "moco": "encoder_q.", "swav": ""}[kind]
    content = {"state_dict": {prefix + key: value for key, value in state.items()}}
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"bn1\.weight is a numpy.*_reconstruct, no plain tensor: save the full"):
        convert(tmp_path / "m.pth", kind, tmp_path / "out")


def test_what_is_no_dict_is_named_with_the_remedy(tmp_path: Path) -> None:
    torch.save(argparse.Namespace(a=1), tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"^m\.pth holds a argparse\.Namespace, not a dict of tensors: save"):
        read_torch(tmp_path / "m.pth")
    (tmp_path / "p.pth").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(UserError, match=r"^p\.pth is refused: no file of torch\.save"):
        read_torch(tmp_path / "p.pth")


def test_a_module_of_the_legacy_form_with_its_source(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"m": nn.Linear(2, 3)}, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    assert read_torch(tmp_path / "m.pth").content["m"]["weight"].shape == (3, 2)
