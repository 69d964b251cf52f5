"""One encoder in the names of torchvision, timm and detectron2, there and back, byte for byte."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from official_files import narrow, network
from safetensors.torch import load_file

import zoo
from zoo.convert.convert import convert
from zoo.convert.readers.safe_pickle import read_pickle
from zoo.convert.readers.torch_checkpoint import read_torch
from zoo.errors import UserError
from zoo.export.checkpoint_formats import OWN_ENDING, SAFETENSORS, rename
from zoo.models import checkpoint_dir
from zoo.models.key_mapping import (
    detectron2_to_torchvision,
    resnetv2_to_torchvision,
    to_torchvision,
    torchvision_to_detectron2,
    torchvision_to_resnetv2,
)
from zoo.models.model_config import ModelConfig
from zoo.models.registry import ARCHITECTURES, IMAGENET_224, Architecture
from zoo.models.resnet import build_encoder, encoder_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow converted network."""
    tmp = tmp_path_factory.mktemp("named")
    torch.save(network(narrow([1, 2, 1, 1])).state, tmp / "x.pth")
    convert(tmp / "x.pth", "torch", tmp / "m", name="narrow", licence="MIT")
    return tmp / "m"


def resnet50_state() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return torchvision.models.resnet50().state_dict()


def test_every_key_goes_there_and_back() -> None:
    state = resnet50_state()
    for there, back in (
        (torchvision_to_resnetv2, resnetv2_to_torchvision),
        (torchvision_to_detectron2, detectron2_to_torchvision),
    ):
        renamed = there(state)
        assert len(renamed) == len(state)
        assert not set(renamed) & set(state)
        returned = back(renamed)
        assert list(returned) == list(state)
        assert all(returned[key] is state[key] for key in state)
    with torch.device("meta"):
        v2 = timm.create_model("resnetv2_50", preact=False).state_dict()
    assert set(torchvision_to_resnetv2(state)) == set(v2)


def test_detectron2_s_own_names() -> None:
    """As its ``tools/convert-torchvision-to-d2.py`` writes them."""
    renamed = set(torchvision_to_detectron2(resnet50_state()))
    for key in (
        "stem.conv1.weight",
        "stem.conv1.norm.running_mean",
        "res2.0.conv1.weight",
        "res2.0.conv3.norm.bias",
        "res2.0.shortcut.weight",
        "res2.0.shortcut.norm.weight",
        "res5.2.conv2.norm.running_var",
    ):
        assert key in renamed


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("to", OWN_ENDING)
def test_a_written_file_reads_back_to_the_same_bytes(folder: Path, tmp_path: Path, to: str, own: bool) -> None:
    out = tmp_path / f"x{OWN_ENDING[to] if own else SAFETENSORS}"
    renamed = rename(folder, to, out)
    assert renamed.tensors > 50
    convert(out, "torch", tmp_path / "m", name="narrow", licence="MIT")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    if to == "detectron2":
        assert "INPUT.FORMAT 'RGB'" in renamed.notes[0]


def test_detectron2_s_pickle_is_plain_and_holds_the_same_values(folder: Path, tmp_path: Path) -> None:
    """Our allow-list reads it, and so does pickle itself, as detectron2's checkpointer calls it."""
    out = tmp_path / "x.detectron2.pkl"
    renamed = rename(folder, "detectron2", out)
    content = read_pickle(out.read_bytes(), out.name)
    assert list(content) == ["model", "__author__", "matching_heuristics"]
    assert content["matching_heuristics"] is True
    expected = torchvision_to_detectron2(to_torchvision(load_file(folder / "model.safetensors")) or {})
    assert set(content["model"]) == set(expected)
    assert len(expected) == renamed.tensors
    with out.open("rb") as file:
        theirs = pickle.load(file, encoding="latin1")
    for name, tensor in expected.items():
        for found in (content["model"][name], theirs["model"][name]):
            assert type(found) is np.ndarray
            assert (found.dtype, found.shape) == (tensor.numpy().dtype, tuple(tensor.shape))
            assert found.tobytes() == tensor.numpy().tobytes()
    imports = {arg for opcode, arg, _ in pickletools.genops(out.read_bytes()) if opcode.name == "GLOBAL"}
    assert imports == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}  # in any NumPy


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_by_name_that_torch_wrote_is_read_as_torch_s(folder: Path, tmp_path: Path, legacy: bool) -> None:
    state = {"model": to_torchvision(load_file(folder / "model.safetensors"))}
    torch.save(state, tmp_path / "x.pkl", _use_new_zipfile_serialization=not legacy)
    convert(tmp_path / "x.pkl", "torch", tmp_path / "m", name="narrow", licence="MIT")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_arrays_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    itself: dict[str, object] = {}
    itself["self"] = itself
    for content in ({"model": {"conv1.weight": np.array(["text"])}}, itself):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"x\.pkl is refused"):
            read_torch(tmp_path / "x.pkl")


def test_torchvision_and_timm_load_what_is_written_for_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(ARCHITECTURES["r18"]).eval()
    described = ModelConfig("r18", None, "byol", ARCHITECTURES["r18"], IMAGENET_224, "MIT", "a test")
    checkpoint_dir.write(tmp_path / "m", described, encoder_state(encoder))
    rename(tmp_path / "m", "torchvision", tmp_path / "tv.pth")
    theirs = torchvision.models.resnet18().eval()
    loaded = theirs.load_state_dict(torch.load(tmp_path / "tv.pth", weights_only=True), strict=False)
    assert (loaded.missing_keys, loaded.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    theirs.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), encoder(x))


def test_what_keys_cannot_say_is_said(tmp_path: Path) -> None:
    net = network(Architecture("resnetv2_50", 256, 0, {"preact": False, "width_factor": 0.125}, padding="same"))
    described = ModelConfig(
        "d", None, "byol", narrow([3, 4, 6, 3], padding="same"), IMAGENET_224, "CC-BY-NC-4.0", "a test"
    )
    checkpoint_dir.write(tmp_path / "m", described, encoder_state(net.module))
    notes = rename(tmp_path / "m", "torchvision", tmp_path / "x.pth").notes
    assert "the padding is TensorFlow's (same), which torchvision does not have" in notes[0]
    assert "torchvision builds no ResNet" in notes[1]


def test_refusals(folder: Path, tmp_path: Path) -> None:
    for model, to, out, message in (
        (folder, "keras", "x.pth", "one of torchvision"),
        (folder, "timm", "x.pkl", r"ends in \.safetensors or \.pth"),
        (folder, "detectron2", "x.pth", r"ends in \.safetensors or \.pkl"),
        ("byol_r18_mini.random", "timm", "x.pth", "has no weights to rename"),
        ("byol_r05", "timm", "x.pth", "unknown model"),
    ):
        with pytest.raises(UserError, match=message):
            rename(model, to, tmp_path / out)
    assert not list(tmp_path.iterdir())
    assert zoo.load(folder, device="cpu").dim == 256
