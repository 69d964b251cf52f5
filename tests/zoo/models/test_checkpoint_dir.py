"""The folder of a converted model: written whole, read with every check, and read by timm as it is."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.convert.convert import convert
from zoo.errors import UserError
from zoo.models import checkpoint_dir
from zoo.models.heads import byol_mlp
from zoo.models.model_config import ModelConfig, crop_pct
from zoo.models.registry import Architecture, ModelArgs
from zoo.models.resnet import build_encoder, encoder_state
from zoo.system.atomic_files import sha256_file
from zoo.transforms.preprocess import Preprocessing

NARROW = Architecture(
    "resnetv2_50", 128, 93_056, {"preact": False, "layers": [1, 1, 1, 1], "width_factor": 0.0625}, padding="symmetric"
)


def described(architecture: Architecture = NARROW, **changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "name": "narrow",
        "tag": "test",
        "method": "byol",
        "architecture": architecture,
        "preprocessing": Preprocessing(64, 73),
        "licence": "CC-BY-NC-4.0",
        "source": "a test",
    }
    return ModelConfig(**values | changes)


def states(architecture: Architecture = NARROW) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    dim = architecture.num_features
    heads = {"projector": byol_mlp(dim, 32, 16), "predictor": byol_mlp(16, 32, 16)}
    return encoder_state(build_encoder(architecture)), {k: encoder_state(m) for k, m in heads.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint_dir.write(tmp_path / "model", described(), *states())
    return tmp_path / "model"


def change(folder: Path, **changes: Any) -> Path:
    """Sets values in config.json; ``a__b`` reaches into sections."""
    config = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        *sections, last = path.split("__")
        place = config
        for section in sections:
            place = place[section]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def replace_tensors(folder: Path, file: str, tensors: dict[str, torch.Tensor]) -> Path:
    """Other weights with a right hash: what is left to find are keys, shapes and values."""
    save_file(tensors, folder / file)
    config = json.loads((folder / "config.json").read_text())
    config["siamese_zoo"]["sha256"][file] = sha256_file(folder / file)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("padding", ["symmetric", "same", "same-pool"])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_a_written_model_comes_back_with_its_heads(tmp_path: Path, padding: str, stem: str) -> None:
    from dataclasses import replace

    architecture = replace(NARROW, padding=padding, stem=stem)
    encoder, heads = states(architecture)
    written = checkpoint_dir.write(tmp_path / "m", described(architecture), encoder, heads)
    assert checkpoint_dir.verify(tmp_path / "m") == written
    embedder = zoo.load(tmp_path / "m", device="cpu")
    assert (embedder.weights_info["model"], embedder.weights_info["licence"]) == ("narrow.test", "CC-BY-NC-4.0")
    loaded = embedder.model.state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in encoder.items())
    assert embedder.heads is not None
    for part in ("projector", "predictor"):
        module = getattr(embedder.heads, part)
        assert not module.training
        assert all(torch.equal(v, module.state_dict()[k]) for k, v in heads[part].items())
    assert embedder.heads.classifier is None
    reference = build_encoder(architecture).eval()
    reference.load_state_dict(encoder, strict=False)
    x = torch.randn(2, 3, 65, 48)
    with torch.no_grad():
        torch.testing.assert_close(embedder.model(x), reference(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["groupnorm", "groupnorm1"])
def test_a_network_without_bn_comes_back_and_timm_builds_it(norm: str, tmp_path: Path) -> None:
    architecture = Architecture("resnet18", 512, 11_176_512, {"norm_layer": norm})
    state, _ = states(architecture)
    checkpoint_dir.write(tmp_path / "model", described(architecture), state, {})
    theirs = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), zoo.load(tmp_path / "model", device="cpu").model(x))
    assert not [module for module in theirs.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_timm_reads_the_folder_as_it_is(folder: Path) -> None:
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), zoo.load(folder, device="cpu").model(x))
    config = timm.data.resolve_data_config({}, model=theirs)
    assert (list(config["input_size"]), config["interpolation"]) == ([3, 64, 64], "bicubic")
    assert int(64 / config["crop_pct"]) == 73


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (64, 73), (48, 48), (97, 111), (1, 3)])
def test_timm_computes_our_resize_from_crop_pct(size: int, resize: int) -> None:
    assert int(size / crop_pct(Preprocessing(size, resize))) == resize


def test_a_folder_in_use_is_left_alone(folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match="holds something already"):
        checkpoint_dir.write(folder, described(), *states())
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("key", "made", "message"),
    [
        ("stem.conv.weight", lambda v: v.double() * 1e40, "not finite"),  # in float32, which is written
        ("stem.conv.weight", lambda v: v.to(torch.float8_e4m3fn), "of a kind that is not read"),
        ("stem.conv.weight", lambda v: v.to(torch.complex64), "of a kind that is not read"),
        ("stem.conv.weight", lambda v: (v * 100).to(torch.int8), "quantised"),
        ("stem.norm.running_var", lambda v: v - 2, "a variance below 0"),
    ],
)
def test_values_that_no_network_computes_with_are_refused(
    tmp_path: Path, folder: Path, key: str, made: Any, message: str
) -> None:
    encoder, heads = states()
    encoder[key] = made(encoder[key])
    with pytest.raises(UserError, match=message):
        checkpoint_dir.write(tmp_path / "m", described(), encoder, heads)
    assert not (tmp_path / "m").exists()
    with pytest.raises(UserError, match=message):
        zoo.load(replace_tensors(folder, "model.safetensors", encoder), device="cpu")


@pytest.mark.parametrize(
    ("key", "made"),
    [
        ("0.weight", lambda v: v * float("nan")),
        ("0.weight", lambda v: v.double() * 1e300),
        ("0.weight", lambda v: v.to(torch.float8_e4m3fn)),
        ("0.weight", lambda v: (v * 100).to(torch.int8)),
        ("0.bias", lambda v: v[:0]),
        ("1.running_var", lambda v: v[:3]),
    ],
)
def test_heads_are_checked_before_they_are_written(tmp_path: Path, key: str, made: Any) -> None:
    encoder, heads = states()
    heads["projector"][key] = made(heads["projector"][key])
    with pytest.raises(UserError, match="the projector of narrow"):
        checkpoint_dir.write(tmp_path / "m", described(), encoder, heads)
    assert not (tmp_path / "m").exists()


def test_weights_too_large_for_float16_are_refused_by_name(tmp_path: Path) -> None:
    encoder, heads = states()
    encoder["stem.conv.weight"][0, 0, 0, 0] = 1e6
    with pytest.raises(UserError, match=r"stem.conv.weight holds a weight of 1e\+06, .* leave --half out"):
        checkpoint_dir.write(tmp_path / "m", described(), encoder, heads, half=True)
    checkpoint_dir.write(tmp_path / "m", described(), encoder, heads)
    zoo.load(tmp_path / "m", device="cpu")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are files of POSIX")
def test_pipes_and_devices_are_no_models(tmp_path: Path) -> None:
    for name in ("m.safetensors", "m.pth"):
        os.mkfifo(tmp_path / name)
        (tmp_path / f"null-{name}").symlink_to(os.devnull)
        for path, kind in ((tmp_path / name, "pipe"), (tmp_path / f"null-{name}", "device")):
            with pytest.raises(UserError, match=f"is a {kind}, not a file"):
                zoo.load(path, device="cpu")
            with pytest.raises(UserError, match=f"is a {kind}, not a file"):
                convert(path, "auto", tmp_path / "out")


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    encoder, heads = states()
    for broken, message in (
        (encoder | {"extra": torch.zeros(1)}, "1 keys differ, first extra"),
        (encoder | {"stem.conv.weight": torch.full_like(encoder["stem.conv.weight"], float("nan"))}, "not finite"),
    ):
        with pytest.raises(UserError, match=message):
            checkpoint_dir.write(tmp_path / "m", described(), broken, heads)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vit_base_patch16_224"}, "not known to this version"),
        ({"architecture": "hf-hub:somebody/something"}, "not known to this version"),
        ({"model_args": {"preact": False, "width_factor": 1e9}}, "out of range"),
        ({"model_args": {"preact": False, "layers": [10**9, 1, 1, 1]}}, "out of range"),
        ({"model_args": {"preact": False, "norm_layer": "groupnorm1"}}, r"\['norm_layer'\] are not known"),
        ({"architecture": "resnet50", "model_args": {"norm_layer": "os.system"}}, "norm_layer 'os.system' is"),
        ({"architecture": "resnet50", "model_args": {"norm_layer": ["groupnorm"]}}, "is not known"),
        ({"model_args": {"preact": False, "pretrained": True}}, r"\['pretrained'\] are not known"),
        ({"num_features": 64}, "states 64 features, its network has 128"),
        ({"num_features": "128"}, "'128' is no whole number"),
        ({"num_features": 128.7}, r"128\.7 is no whole number"),
        ({"siamese_zoo__parameters": -1}, "-1 is no whole number"),
        ({"siamese_zoo__project_first": "no"}, "'no' is not true or false"),
        ({"pretrained_cfg__mean": [0, 0, 0]}, r"mean of pretrained_cfg, which timm reads, is \[0, 0, 0\]"),
        ({"pretrained_cfg__input_size": [3, 224, 224]}, "input_size of pretrained_cfg"),
        ({"pretrained_cfg__crop_mode": "squash"}, "crop_mode of pretrained_cfg"),
        ({"siamese_zoo__heads": {}}, r"layouts of heads and the sha256 of heads\.safetensors, or neither"),
        ({"siamese_zoo": None}, "was not written by `zoo convert`"),
        ({"siamese_zoo__format": 2}, "format 2 is not known"),
        ({"siamese_zoo__name": "../../x"}, "is not a valid name"),
        ({"siamese_zoo__licence": "a\nb"}, "is not a line of text"),
        ({"siamese_zoo__sha256": {"../../etc/passwd": "0"}}, "must be model.safetensors"),
        ({"siamese_zoo__sha256__model.safetensors": "0" * 64}, "does not have the sha256"),
        ({"siamese_zoo__preprocessing": {"input_size": -1, "resize": 5}}, "input_size -1"),
        ({"siamese_zoo__heads__projector": [["exec", 1]]}, "unknown layer 'exec'"),
        ({"siamese_zoo__heads__projector": [["linear", 10**12, 10**12, True]]}, "linear of"),
        ({"siamese_zoo__heads__projector": [["linear", 128, 32, True]]}, "keys differ"),
        ({"siamese_zoo__heads__surprise": [["relu"]]}, "'surprise'"),
    ],
)
def test_a_hostile_config_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        zoo.load(change(folder, **changes), device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '"' + "x" * 2_000_000 + '"'])
def test_a_config_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        zoo.load(folder, device="cpu")


def test_a_key_that_stands_twice_is_refused(folder: Path) -> None:
    """One JSON reader takes the first value, another one the last."""
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"mean": [', '"mean": [0, 0, 0], "mean": [', 1))
    with pytest.raises(UserError, match="it has the key 'mean' twice"):
        zoo.load(folder, device="cpu")


def test_heads_without_a_hash_are_not_used(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["siamese_zoo"]["sha256"]["heads.safetensors"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="or neither"):
        zoo.load(folder, device="cpu")


@pytest.mark.parametrize("key", ["stem.norm.num_batches_tracked", "no.such.num_batches_tracked"])
def test_a_counter_that_is_not_the_networks_is_refused(folder: Path, key: str) -> None:
    encoder = load_file(folder / "model.safetensors")
    with pytest.raises(UserError, match=f"1 keys differ, first {key}"):
        zoo.load(replace_tensors(folder, "model.safetensors", encoder | {key: torch.zeros(7)}), device="cpu")


def test_a_stem_narrower_than_a_first_stage_without_a_projection_opens(tmp_path: Path) -> None:
    args: ModelArgs = {"layers": [1, 1, 1, 1], "channels": [64, 64, 64, 64], "stem_width": 24}
    narrow = Architecture("resnet18", 64, 0, args)
    state = encoder_state(build_encoder(narrow))
    assert state["layer1.0.downsample.0.weight"].shape == (64, 24, 1, 1)
    checkpoint_dir.write(tmp_path / "model", described(narrow), state)
    assert zoo.load(tmp_path / "model", device="cpu").dim == 64


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"layers": [1, 1, 1, 1], "cardinality": 2, "base_width": 8}, "timm cannot build resnet18 with"),
        ({"layers": [1, 1, 1, 1], "cardinality": 1, "base_width": 8}, "timm cannot build resnet18 with"),
    ],
)
def test_arguments_that_timm_refuses_are_one_line(folder: Path, args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        zoo.load(change(folder, architecture="resnet18", model_args=args, num_features=512), device="cpu")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_channels_is_refused(tmp_path: Path) -> None:
    args: ModelArgs = {"layers": [1, 1, 1, 1], "channels": [7, 14, 28, 56], "cardinality": 2, "base_width": 8}
    empty = Architecture("wide_resnet50_2", 224, 0, args)
    state = encoder_state(build_encoder(empty))
    with pytest.raises(UserError, match=r"holds a layer without channels: layer1\.0\.conv1\.weight"):
        checkpoint_dir.write(tmp_path / "model", described(empty), state)


def test_a_refused_model_is_named_by_its_folder(tmp_path: Path) -> None:
    """Not by the temporary one, which is gone when the message is read."""
    padded = Architecture("resnetv2_18", 512, 0, padding="same")
    with pytest.raises(UserError) as caught:
        checkpoint_dir.write(tmp_path / "model", described(padded), encoder_state(build_encoder(padded)))
    assert str(caught.value).startswith(f"{tmp_path}/model/config.json: resnetv2_18 is no ResNet")
    assert ".tmp" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_projection_that_the_network_cannot_have_is_refused(tmp_path: Path) -> None:
    """A bottleneck block has another number of channels behind it than before it."""
    architecture = replace(NARROW, project_first=True)
    checkpoint_dir.write(tmp_path / "m", described(architecture), encoder_state(build_encoder(architecture)))
    with pytest.raises(UserError, match="which its network does not take"):
        zoo.load(tmp_path / "m", device="cpu")


def test_weights_with_a_right_hash_are_still_checked(folder: Path) -> None:
    encoder = load_file(folder / "model.safetensors")
    nan = {k: torch.full_like(v, float("nan")) if "running_var" in k else v for k, v in encoder.items()}
    with pytest.raises(UserError, match="not finite"):
        zoo.load(replace_tensors(folder, "model.safetensors", nan), device="cpu")
    del encoder["stem.norm.bias"]
    with pytest.raises(UserError, match=r"first stem\.norm\.bias"):
        zoo.load(replace_tensors(folder, "model.safetensors", encoder), device="cpu")
    (folder / "heads.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks heads\.safetensors"):
        zoo.load(folder, device="cpu")


def test_a_name_of_the_registry_is_not_a_folder_by_chance(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert zoo.load("model", device="cpu").weights_info["model"] == "narrow.test"
    folder.rename(tmp_path / "byol_r18_mini")
    assert zoo.load("byol_r18_mini", device="cpu").weights_info["model"] == "byol_r18_mini.tin64"
    assert zoo.load("./byol_r18_mini", device="cpu").weights_info["model"] == "narrow.test"
