"""What an export leaves: an encoder that loads, heads, a draft for the registry, and the card of the file."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_runs import METHODS, tiny

import zoo
from training.engine import checkpoint
from training.engine.loop import train
from training.methods import build_method
from training.recipes.config import Recipe, to_json
from training.results.export import HEADS_FORMAT, export
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.evaluate.run import evaluate
from zoo.hub.exported_encoder import FORMAT_2, save_encoder
from zoo.hub.networks import load_encoder
from zoo.hub.weights import locate
from zoo.models.resnet import encoder_state
from zoo.transforms.preprocess import Preprocessing

WITH_HEADS = [method for method in METHODS if method != "byol_gn"]  # whose heads no file can hold
PHOTOS = sorted(Path("examples/photos").glob("*.jpg"))[:2]


def exported(recipe: Recipe, folder: Path, *, step: int = 5, **options: Any) -> torch.nn.Module:
    """``e.safetensors`` and what comes with it, of a checkpoint after so many steps of ten; the network behind it."""
    network = build_method(recipe, 48)
    known = {"data": {"name": "Birds of 2024/train", "images": 48}, "seconds": 61.0, "hardware": ["cpu A", "cpu B"]}
    state = {"recipe": to_json(recipe), "method": network.state_dict(), "step": step, "total_steps": 10} | known
    checkpoint.save(folder, step, state)
    export(folder, folder / "e.safetensors", **options)
    return network


@pytest.mark.parametrize("method", WITH_HEADS)
def test_a_checkpoint_becomes_encoder_heads_draft_and_card(method: str, tmp_path: Path) -> None:
    network = exported(tiny(method), tmp_path)
    embedder = zoo.load(tmp_path / "e.safetensors")
    assert embedder(PHOTOS).shape == (2, 16)
    sha256 = embedder.weights_info["weights_sha256"]
    heads = load_file(tmp_path / "e.heads.safetensors")
    parts = {name.partition(".")[0] for name in heads}
    assert parts
    assert parts <= {"projector", "predictor", "prototypes", "classifier"}
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in heads.items())
    with safe_open(tmp_path / "e.heads.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["encoder_sha256"]) == (HEADS_FORMAT, sha256)

    source = f"trained with `zoo-train run {tiny(method).name}` on Birds of 2024/train"
    draft = json.loads((tmp_path / "e.registry.json").read_text())
    in_the_zoo = "moco" if method == "mocov2" else method
    assert (draft["name"], draft["method"], draft["architecture"]) == ("e", in_the_zoo, tiny(method).architecture)
    weights = draft["weights"]["birds_of_2024_train"]
    assert (weights["sha256"], weights["source"], weights["selection"]) == (sha256, source, "")

    card = ModelCard.load(tmp_path / "e.card.md")
    text = " ".join(card.content.split())
    labels = "labelled" if method == "supervised" else "unlabelled"
    for said in (
        f"# e A ResNet-18{', twice, for two parts of the colours (lab)' if method == 'cmc' else ''} trained with",
        f"| embedding | 16 numbers, {'0.026' if method == 'cmc' else '0.037'} M parameters |",
        f"| source | {source} |",
        f"| file | `e.safetensors`, sha256 `{sha256}` |",
        f"| heads | `e.heads.safetensors`: {', '.join(sorted(parts))} |",
        f"| data | Birds of 2024/train, 48 {labels} training images |",
        "| length | 5 steps of 10: not finished, 40 images, 0.8 epochs, 1.0 minutes |",
        "| hardware | cpu A, then cpu B |",
        "1.0 minutes on cpu A, then cpu B. Energy and carbon were not measured.",
        "zoo extract --model e.safetensors --images DIR --out OUT",
        "zoo export --model e.safetensors --out model.onnx",
        "Not measured yet: `zoo evaluate knn --model e.safetensors --data DATA --out RESULTS/knn.json`",
    ):
        assert said in text, said
    assert card.data.to_dict()["tags"][-1] == in_the_zoo
    for written in ("e.card.md", "e.registry.json"):
        assert "TODO" not in (tmp_path / written).read_text()


@pytest.mark.parametrize("method", WITH_HEADS)
def test_the_heads_beside_an_encoder_are_loaded_with_it(method: str, tmp_path: Path) -> None:
    network = exported(tiny(method), tmp_path).eval()
    embedder = zoo.load(tmp_path / "e.safetensors", device="cpu")
    assert embedder.heads is not None
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    compared = 0
    for part in ("projector", "predictor", "classifier"):
        head = getattr(embedder.heads, part)
        assert (head is None) == (not any(True for name in network.state_dict() if name.startswith(f"{part}.")))
        if head is None or part == "predictor":
            continue
        compared += 1
        with torch.no_grad():
            torch.testing.assert_close(head(vectors), network.get_submodule(part)(vectors))
    assert compared == 1
    if method == "supervised":
        assert zoo.load(tmp_path / "e.safetensors", device="cpu").shapes["logits"] == (2,)


def test_heads_of_another_encoder_are_refused(tmp_path: Path) -> None:
    exported(tiny("byol"), tmp_path)
    for changed in (tmp_path / "other",):
        changed.mkdir()
        exported(tiny("byol", seed=1), changed)
        (changed / "e.heads.safetensors").write_bytes((tmp_path / "e.heads.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"e\.heads\.safetensors does not belong to .*export both again"):
        zoo.load(tmp_path / "other" / "e.safetensors", device="cpu")


def test_a_licence_is_unknown_until_it_is_given(tmp_path: Path) -> None:
    exported(tiny("byol"), tmp_path)
    assert zoo.load(tmp_path / "e.safetensors", device="cpu").weights_info["licence"] == "unknown"
    exported(tiny("byol"), tmp_path, licence="MIT")
    assert zoo.load(tmp_path / "e.safetensors", device="cpu").weights_info["licence"] == "MIT"


def test_what_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    exported(tiny("byol"), tmp_path)
    with pytest.raises(UserError, match=r"give it the suffix \.safetensors"):
        export(tmp_path, tmp_path / "last.json")
    state = checkpoint.load_last(tmp_path)
    assert state is not None
    del state["method"]["encoder.conv1.weight"]
    checkpoint.save(tmp_path, 6, state)
    with pytest.raises(UserError, match=r"does not fit the network of its recipe \(.*conv1.weight.*: use the version"):
        export(tmp_path, tmp_path / "e.safetensors")


def test_a_method_of_ones_own_is_not_given_for_a_method_of_the_zoo(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--method my_method:Mine: .* was trained by byol of siamese-zoo"):
        exported(tiny("byol"), tmp_path, method="my_method:Mine")


def test_the_card_s_lines_of_python_load_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(tiny("byol"), tmp_path, step=10)
    photos = [str(p.resolve()) for p in PHOTOS]
    expected = zoo.load(tmp_path / "e.safetensors")(photos)
    text = (tmp_path / "e.card.md").read_text()
    assert "| length | 10 steps, 80 images," in text
    (line,) = re.findall(r'^    (zoo\.load\("[^"]+"\))', text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(eval(line)(photos), expected)


def test_a_network_of_torch_hub_with_another_stem_in_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(tiny("byol"), architecture="r18", stem="cifar")
    network = exported(recipe, tmp_path, half=True)
    draft = json.loads((tmp_path / "e.registry.json").read_text())
    assert draft["architecture"] == {"name": "r18", "stem": "cifar"}
    text = (tmp_path / "e.card.md").read_text()
    encoder: Any = network.encoder
    assert f"| embedding | 512 numbers, {sum(p.numel() for p in encoder.parameters()) / 1e6:.3f} M parameters |" in text
    assert "| network | timm `resnet18`; 3x3 stem without a pool |" in text
    assert "| file | `e.safetensors`, float16 convolutions, float32 BN, sha256" in text
    (line,) = re.findall(r"^    (torch\.hub\.load\(.*\))$", text, re.MULTILINE)
    root = Path.cwd()
    monkeypatch.chdir(tmp_path)
    module = eval(line.replace("PATH/TO/siamese-zoo", str(root)))
    assert module.conv1.weight.shape == (64, 3, 3, 3)
    assert torch.equal(module.conv1.weight, encoder.conv1.weight.half().float())


@pytest.mark.parametrize(("padding", "project_first"), [("same", True), ("same-pool", False), ("symmetric", True)])
def test_the_file_carries_tensorflow_s_padding_and_the_first_projection(
    padding: str, project_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``zoo.load`` and torch.hub give the function that was trained, at even and odd sizes."""
    recipe = replace(tiny("byol"), architecture="r18", padding=padding, project_first=project_first)
    network = exported(recipe, tmp_path)
    draft = json.loads((tmp_path / "e.registry.json").read_text())
    assert draft["architecture"] == {
        "name": "r18", "stem": "imagenet", "padding": padding, "project_first": project_first
    }  # fmt: skip
    assert draft["weights"]["birds_of_2024_train"]["padding"] == padding
    file = locate(tmp_path / "e.safetensors")
    assert (file.architecture.padding, file.architecture.project_first) == (padding, project_first)
    with safe_open(file.path, "pt") as opened:
        assert opened.metadata()["format"] == FORMAT_2  # versions that would ignore the padding refuse the file

    encoder: Any = network.encoder
    loaded, trained = load_encoder(file), encoder.eval()
    assert hasattr(trained.layer1[0].downsample, "0") == project_first
    for size in (64, 65, 50):
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(loaded(x), trained(x))
    assert zoo.load(tmp_path / "e.safetensors")(PHOTOS).shape == (2, 512)

    text = (tmp_path / "e.card.md").read_text()
    (line,) = re.findall(r"^    (torch\.hub\.load\(.*\))$", text, re.MULTILINE)
    root = Path.cwd()
    monkeypatch.chdir(tmp_path)
    module = eval(line.replace("PATH/TO/siamese-zoo", str(root))).eval()
    with torch.no_grad():
        assert torch.equal(module(x), trained(x))


def test_a_file_of_an_unknown_padding_is_refused(tmp_path: Path) -> None:
    network = exported(tiny("byol"), tmp_path)
    preprocessing = json.dumps(Preprocessing(32, 36).to_json())
    metadata = {"format": FORMAT_2, "method": "byol", "preprocessing": preprocessing, "licence": "MIT"}
    for change in ({"padding": "valid"}, {"project_first": 1}, {"name": "r50", "project_first": True}, {"stem": "x"}):
        architecture = {"name": "r18", "stem": "imagenet", "padding": "same", "project_first": False} | change
        path = tmp_path / "other.safetensors"
        save_encoder(path, encoder_state(network.encoder), metadata | {"architecture": architecture})
        with pytest.raises(UserError, match="metadata that this version does not understand"):
            locate(path)


def test_a_supervised_run_becomes_a_baseline_for_evaluation(
    labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, exported, and scored by ``--model FILE`` as any other network."""
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    train(tiny("supervised"), open_dataset(labelled_folder), tmp_path / "run", device="cpu")
    export(tmp_path / "run", tmp_path / "e.safetensors")
    for split in ("train", "test"):
        shutil.copytree(labelled_folder, tmp_path / "data" / split)
    trained, random = (
        evaluate("knn", model, tmp_path / "data", device="cpu") for model in (str(tmp_path / "e.safetensors"), "random")
    )
    assert (trained["model"]["name"], random["model"]["name"].rpartition(".")[2]) == ("e", "random")
    assert trained["data"]["test"] == random["data"]["test"]
    assert 0 < trained["score"] <= 100
