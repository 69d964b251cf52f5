"""Training with networks of timm: a few steps of each kind, then export, extraction, evaluation and ONNX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import Killed, after_step, assert_same_state, kill, last, tiny, tiny_run
from tiny_runs import log as read_log

import zoo
from training.engine import loop
from training.engine.memory import estimate
from training.engine.optim import build_optimiser, without_decay_of_vectors
from training.methods import build_method
from training.methods.base import recipe_architecture
from training.recipes import table
from training.recipes.config import Optim, Recipe, override
from training.results.export import export
from zoo.cli.model_info import print_info
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.evaluate.run import evaluate
from zoo.export.checkpoint_formats import rename
from zoo.export.export import Variant, export_onnx
from zoo.hub.weights import locate
from zoo.publish.publish import publish

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"
PLAIN = {"stem": "imagenet", "zero_init_residual": False}
KINDS = ("convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050")


def small(architecture: str, method: str = "byol", **changes: Any) -> Recipe:
    return tiny(method, architecture=architecture, **PLAIN | changes)


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, photos: Dataset) -> Path:
    """The exported encoder of a short run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    method = {"convnext_atto": "byol", "vit_tiny_patch16_224": "mocov2", "mobilenetv3_small_050": "simsiam"}
    recipe = small(request.param, method[request.param], optim={"epochs": 1})
    loop.train(recipe, photos, folder, device="cpu")
    assert f"timm's {request.param}" in next(line["note"] for line in read_log(folder) if "note" in line)
    out = folder.parent / "own.safetensors"
    export(folder, out, licence="MIT")
    return out


def test_the_export_is_the_trained_encoder(encoder: Path) -> None:
    state = last(encoder.parent / "run")["method"]
    embedder = zoo.load(encoder, device="cpu")
    for key, value in embedder.model.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, state[f"encoder.{key}"]), key
    found = embedder([PHOTOS / "cat_chelsea.jpg", PHOTOS / "rocket.jpg"])
    assert found.shape == (2, embedder.dim)
    assert np.isfinite(found).all()
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(found, embedder([PHOTOS / "cat_chelsea.jpg", PHOTOS / "rocket.jpg"])), "nothing is random"
    assert embedder.heads is not None
    assert embedder.heads.projector is not None


def test_onnx_and_every_loader_give_its_embeddings(encoder: Path, tmp_path: Path) -> None:
    embedder = zoo.load(encoder, device="cpu")
    assert export_onnx(embedder, tmp_path / "m.onnx", Variant("crop")).parity < 1e-5
    result = publish(encoder, "somebody/own", dry_run=tmp_path / "repository", int8=False)
    assert max(result.agreement.timm, result.agreement.onnx) < 1e-5
    again = zoo.load(tmp_path / "repository", device="cpu")
    photo = PHOTOS / "rocket.jpg"
    assert np.allclose(again(photo), embedder(photo), rtol=1e-4, atol=1e-6)
    card = (tmp_path / "repository" / "README.md").read_text()
    assert "ResNet" not in card
    assert "- resnet\n" not in card
    assert 'source="local", weights="hf-hub:somebody/own"' in card


@pytest.fixture(scope="module")
def coat(tmp_path_factory: pytest.TempPathFactory, photos: Dataset) -> Path:
    """The exported encoder of a CoaT: both blocks of a stage have one position encoding."""
    folder = tmp_path_factory.mktemp("coat")
    loop.train(small("coat_lite_tiny", "simsiam", optim={"epochs": 1}), photos, folder / "run", device="cpu")
    export(folder / "run", folder / "coat.safetensors", licence="MIT")
    return folder / "coat.safetensors"


def test_layers_that_a_network_uses_twice_are_exported(coat: Path) -> None:
    state = last(coat.parent / "run")["method"]
    network = zoo.load(coat, device="cpu").model.state_dict()
    shared = [network[f"serial_blocks1.{block}.cpe.proj.weight"].data_ptr() for block in (0, 1)]
    assert shared[0] == shared[1]
    for key, value in network.items():
        assert torch.equal(value, state[f"encoder.{key}"]), key


@pytest.mark.slow
def test_layers_that_a_network_uses_twice_are_published(coat: Path, tmp_path: Path) -> None:
    result = publish(coat, "somebody/own", dry_run=tmp_path / "repository", int8=False)
    assert max(result.agreement.timm, result.agreement.onnx) < 1e-4
    parameters = zoo.load(coat, device="cpu").model.parameters()
    assert locate(tmp_path / "repository").architecture.parameters == sum(p.numel() for p in parameters)


def test_the_commands_take_it(
    encoder: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        (tmp_path / split).symlink_to(labelled_folder)
    for protocol, settings in (("knn", {"k": "3"}), ("linear", {})):
        found = evaluate(protocol, str(encoder), tmp_path, device="cpu", settings=settings)
        assert 0 <= found["score"] <= 100
    print_info(str(encoder))
    assert f"network    timm {locate(encoder).architecture.timm_name}" in capsys.readouterr().out
    with pytest.raises(UserError, match="segment needs the four stages of a ResNet"):
        evaluate("segment", str(encoder), tmp_path, device="cpu")
    with pytest.raises(UserError, match="give --to timm"):
        rename(str(encoder), "torchvision", encoder.with_suffix(".pth"))


def test_an_interrupted_run_resumes_with_the_same_bits(tmp_path: Path, photos: Dataset) -> None:
    recipe = small("vit_tiny_patch16_224", optim={"epochs": 2})
    loop.train(recipe, photos, tmp_path / "whole", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        after_step(4, kill, patch)
        with pytest.raises(Killed):
            loop.train(recipe, photos, tmp_path / "cut", device="cpu")
    loop.train(recipe, photos, tmp_path / "cut", device="cpu", resume=True)
    assert_same_state(last(tmp_path / "whole"), last(tmp_path / "cut"))


@pytest.mark.parametrize("optimiser", ["lars", "lars_classic", "larc", "sgd", "adamw"])
def test_vectors_get_neither_decay_nor_a_trust_ratio(optimiser: Any) -> None:
    recipe = small("vit_tiny_patch16_224", "simsiam")
    method = build_method(recipe)
    groups = build_optimiser(method, Optim(name=optimiser, weight_decay=0.5), decay_vectors=False).param_groups
    names = {id(p): name for name, p in method.named_parameters()}
    key = "larc_weight_decay" if optimiser == "larc" else "weight_decay"
    decayed = {names[id(p)] for g in groups if g[key] for p in g["params"]}
    spared = {names[id(p)] for g in groups if not g[key] for p in g["params"]}
    assert decayed | spared == {name for name, p in method.named_parameters() if p.requires_grad}
    assert {"encoder.pos_embed", "encoder.cls_token", "encoder.blocks.0.norm1.weight", "encoder.norm.bias"} <= spared
    assert {"encoder.patch_embed.proj.weight", "encoder.blocks.0.attn.qkv.weight", "projector.0.weight"} <= decayed
    assert {n for n in decayed if n.endswith(".bias")} == set()
    assert {names[id(p)] for g in groups if g.get("predictor") for p in g["params"]} == {
        n for n in decayed | spared if n.startswith("predictor.")
    }
    assert all(g["adapt"] == bool(g[key]) for g in groups)


def test_layer_scales_are_vectors() -> None:
    method = build_method(small("convnext_atto"))
    names = {id(p): name for name, p in method.named_parameters()}
    groups = without_decay_of_vectors(method, 0.5)
    spared = {names[id(p)] for g in groups if not g["adapt"] for p in g["params"]}  # type: ignore[attr-defined]
    assert {n for n in names.values() if n.startswith("encoder.") and n.endswith("gamma")} <= spared


def test_a_resnet_keeps_the_groups_of_its_official_code(photos: Dataset, tmp_path: Path) -> None:
    run = tiny_run(tiny("simsiam"), photos, tmp_path)
    assert [g["weight_decay"] for g in run.optimiser.param_groups] == [tiny("simsiam").optim.weight_decay] * 2
    assert run.notes == []


def test_set_architecture_drops_what_only_resnets_have() -> None:
    base = table.find("byol_r18_tin32")
    assert (base.stem, base.zero_init_residual) != ("imagenet", False)
    changed = override(base, ["architecture=convnext_atto", "views.size=32"])
    assert (changed.stem, changed.zero_init_residual, changed.padding) == ("imagenet", False, "symmetric")
    assert recipe_architecture(changed).timm_name == "convnext_atto"
    assert override(base, ["architecture=resnet34"]).stem == base.stem
    assert recipe_architecture(override(base, ["architecture=resnet34"])).stem == base.stem
    with pytest.raises(UserError, match="stem=cifar is for ResNets, not for convnext_atto: set it to imagenet"):
        recipe_architecture(override(base, ["stem=cifar", "architecture=convnext_atto"]))


def test_memory_of_a_transformer_is_measured_at_its_own_size() -> None:
    assert estimate(small("vit_tiny_patch16_224")).image > 0
    with pytest.raises(UserError, match="cannot recompute its activations"):
        estimate(small("inception_v4", views=replace(tiny("byol").views, size=96), checkpoint_activations=True))
