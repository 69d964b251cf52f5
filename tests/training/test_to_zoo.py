"""What an export leaves: an encoder that loads, heads, and drafts that say what is still to be filled in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_runs import METHODS, tiny

import zoo
from training import checkpoint
from training.build import build_method
from training.config import to_json
from training.loop import train
from training.to_zoo import HEADS_FORMAT, export
from zoo.datasets import open_dataset
from zoo.evaluate.run import evaluate


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_becomes_encoder_heads_and_drafts(method: str, tmp_path: Path) -> None:
    recipe = tiny(method)
    network = build_method(recipe)
    facts = {"data": {"name": "d", "images": 48}, "step": 5, "total_steps": 10, "seconds": 61.0, "hardware": ["cpu"]}
    state = {"recipe": to_json(recipe), "method": network.state_dict(), **facts}
    checkpoint.save(tmp_path, 5, state)
    sha256 = export(tmp_path, tmp_path / "e.safetensors")
    vectors = zoo.load(tmp_path / "e.safetensors")(sorted(Path("examples/photos").glob("*.jpg"))[:2])
    assert vectors.shape == (2, 16)
    heads = load_file(tmp_path / "e.heads.safetensors")
    parts = {name.partition(".")[0] for name in heads}
    assert parts
    assert parts <= {"projector", "predictor", "prototypes", "classifier"}
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in heads.items())
    with safe_open(tmp_path / "e.heads.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["encoder_sha256"]) == (HEADS_FORMAT, sha256)
    draft = json.loads((tmp_path / "e.registry.json").read_text())
    assert (draft["name"], draft["method"], draft["architecture"]) == ("e", method, "tiny")
    assert draft["weights"]["TODO-tag"]["sha256"] == sha256
    card = (tmp_path / "e.card.md").read_text()
    assert sha256 in card
    assert "5 steps of 10: not finished" in card
    assert "TODO" in card


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
