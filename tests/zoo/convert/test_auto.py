"""``zoo convert`` without ``--from``: encoders out of other training codes' checkpoints, equal to the digit.

The layouts are made by hand from small networks; ``test_real_libraries`` uses lightly and Lightning where they are
installed.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_files import Network, narrow, network, vary
from torch import Tensor, nn
from typer.testing import CliRunner

from zoo.cli.main import app
from zoo.convert.convert import Converted, convert
from zoo.errors import UserError
from zoo.hub.networks import load_encoder, load_heads
from zoo.hub.weights import locate
from zoo.models.heads import byol_mlp, simsiam_predictor, simsiam_projector

State = dict[str, Any]


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def numbered(state: State) -> State:
    """As ``nn.Sequential(*list(resnet.children())[:-1])`` names them."""
    numbers = {"conv1": "0", "bn1": "1"} | {f"layer{n}": str(n + 3) for n in range(1, 5)}
    return {f"{numbers[key.partition('.')[0]]}.{key.partition('.')[2]}": value for key, value in state.items()}


def fsdp(state: State) -> State:
    return {key.replace(".conv", "._fsdp_wrapped_module.conv", 1): value for key, value in state.items()}


def read(content: object, tmp_path: Path, **options: Any) -> Converted:
    torch.save(content, tmp_path / "m.ckpt")
    return convert(tmp_path / "m.ckpt", "auto", tmp_path / "out", **options)


def require_same(converted: Converted, net: Network, size: int = 64) -> None:
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_encoder(locate(converted.folder))(pixels), net.module(pixels))


LAYOUTS: dict[str, tuple[Callable[[State], object], str]] = {
    "torchvision": (lambda s: s, ""),
    "ddp": (lambda s: {"model": under("module.", s)}, "model.module."),
    "compile": (lambda s: {"model": under("_orig_mod.", s)}, "model."),
    "compile of ddp": (lambda s: under("module._orig_mod.", s), "module."),
    "fsdp": (lambda s: {"model": under("_fsdp_wrapped_module.", fsdp(s))}, "model."),
    "lightning": (
        lambda s: {
            "epoch": 3,
            "pytorch-lightning_version": "2.6",
            "state_dict": under("backbone.", s),
            "hyper_parameters": argparse.Namespace(lr=0.1),
            "callbacks": {argparse.Namespace: np.float64(1)},
        },
        "state_dict.backbone.",
    ),
    "lightly": (lambda s: {"state_dict": under("backbone.", numbered(s))}, "state_dict.backbone."),
    "solo-learn": (
        lambda s: {"state_dict": under("backbone.", s) | {"classifier.weight": torch.ones(10, 256)}},
        "state_dict.backbone.",
    ),
    "vissl": (
        lambda s: {
            "phase_idx": 1,
            "classy_state_dict": {"base_model": {"model": {"trunk": under("_feature_blocks.", s), "heads": {}}}},
        },
        "classy_state_dict.base_model.model.trunk._feature_blocks.",
    ),
    "mmselfsup": (
        lambda s: {"meta": {"epoch": 1}, "state_dict": under("backbone.", s) | {"neck.fc0.weight": torch.ones(2)}},
        "state_dict.backbone.",
    ),
    "lucidrains": (lambda s: under("net.", s) | under("online_encoder.net.", s), "online_encoder.net."),
    "deep": (lambda s: {"a": {"b": {"c": {"weights": under("x.y.", s)}}}}, "a.b.c.weights.x.y."),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts(layout: str, net: Network, tmp_path: Path) -> None:
    make, prefix = LAYOUTS[layout]
    converted = read(make(net.state), tmp_path)
    assert f"under {prefix!r}" in converted.found
    assert converted.config.licence == "unknown"
    require_same(converted, net)


def test_timm_s_names_and_safetensors(net: Network, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({f"backbone.{k}": v for k, v in net.module.state_dict().items()}, tmp_path / "m.safetensors")
    converted = convert(tmp_path / "m.safetensors", "auto", tmp_path / "out")
    assert "timm's resnetv2 names" in converted.found
    require_same(converted, net)


def test_a_pickled_network(net: Network, tmp_path: Path) -> None:
    torch.save({"net": nn.ModuleDict({"backbone": net.module})}, tmp_path / "m.pth")
    require_same(convert(tmp_path / "m.pth", "auto", tmp_path / "out"), net)


@pytest.mark.parametrize(
    ("content", "prefixes"),
    [
        (lambda a, b: {"state_dict": a, "ema_state_dict": b}, ("state_dict.", "ema_state_dict.")),
        (
            lambda a, b: {"state_dict": under("backbone.", a) | under("momentum_backbone.", b)},
            ("state_dict.backbone.", "state_dict.momentum_backbone."),
        ),
        (lambda a, b: {"student": under("module.", a), "teacher": b}, ("student.module.", "teacher.")),
        (
            lambda a, b: {
                "online_network_state_dict": under("encoder.", numbered(a)),
                "target_network_state_dict": under("encoder.", numbered(b)),
            },
            ("online_network_state_dict.encoder.", "target_network_state_dict.encoder."),
        ),
        (
            lambda a, b: under("net.", a) | under("online_encoder.net.", a) | under("target_encoder.net.", b),
            ("online_encoder.net.", "target_encoder.net."),
        ),
    ],
)
def test_of_two_networks_one_is_chosen(
    content: Any, prefixes: tuple[str, str], net: Network, average: Network, tmp_path: Path
) -> None:
    made = content(net.state, average.state)
    first, second = (f"{p!r}" for p in prefixes)
    with pytest.raises(UserError, match=r"2 networks: choose one with --prefix: ") as refused:
        read(made, tmp_path)
    assert str(refused.value).endswith(f"{first}, {second} (a moving average)")
    with pytest.raises(UserError, match=r"no network under --prefix 'other'; it has: "):
        read(made, tmp_path, prefix="other")
    for number, (prefix, network_) in enumerate(zip(prefixes, (net, average), strict=True)):
        torch.save(made, tmp_path / "m.pth")
        require_same(convert(tmp_path / "m.pth", "auto", tmp_path / str(number), prefix=prefix), network_)


def varied(module: nn.Module) -> nn.Module:
    vary(module)
    return module.eval()


def test_heads_of_lightly_and_solo_learn(net: Network, tmp_path: Path) -> None:
    projector, predictor = varied(simsiam_projector(256, 64, 2)), varied(simsiam_predictor(64, 32))
    own = under("projection_head.layers.", dict(projector.state_dict()))
    own |= under("prediction_head.layers.", dict(predictor.state_dict()))
    converted = read({"state_dict": under("backbone.", numbered(net.state)) | own}, tmp_path)
    heads = load_heads(locate(converted.folder))
    assert heads is not None
    x = torch.randn(3, 256)
    with torch.no_grad():
        assert torch.equal(heads.projector(x), projector(x))
        assert torch.equal(heads.predictor(projector(x)), predictor(projector(x)))
    assert converted.left_out == ()


@pytest.mark.parametrize("kind", ["auto", "torch"])
def test_only_a_single_linear_fc_is_a_classifier(kind: str, net: Network, tmp_path: Path) -> None:
    heads = {"classifier": {"weight": torch.ones(10, 256), "bias": torch.ones(10)}}
    heads["projector"] = dict(varied(byol_mlp(256, 32, 16)).state_dict())
    for part, state in heads.items():
        torch.save(net.state | under("fc.", state), tmp_path / "m.pth")
        converted = convert(tmp_path / "m.pth", kind, tmp_path / part)
        assert list(converted.config.heads) == [part]


def test_a_head_that_does_not_fit_is_left_out(net: Network, tmp_path: Path) -> None:
    own = under("projector.", dict(byol_mlp(100, 32, 16).state_dict())) | {"fc.weight": torch.ones(10, 7)}
    converted = read({"state_dict": net.state | own}, tmp_path)
    assert not converted.config.heads
    assert {"state_dict.fc.weight", "state_dict.projector.0.weight"} <= set(converted.left_out)


def test_small_stems(tmp_path: Path) -> None:
    small = network(narrow([1, 1, 1, 1], stem="cifar"))
    converted = read({"state_dict": under("backbone.", numbered(small.state))}, tmp_path)
    assert "3x3 stem, read as stride 1 without max-pool" in converted.found
    require_same(converted, small, 32)


def shifted(state: State, first: int) -> State:
    """A sequence whose first stage has another number."""
    return {
        (f"{int(key[0]) - 4 + first}{key[1:]}" if int(key[0]) > 3 else key): value
        for key, value in numbered(state).items()
    }


def changed(state: State, **values: Tensor) -> State:
    return state | {key.replace("__", "."): value for key, value in values.items()}


REFUSED: dict[str, tuple[Callable[[State], object], str]] = {
    "thirteen": (lambda s: changed(s, conv1__weight=torch.ones(8, 13, 7, 7)), "a network of 13 input channels"),
    "width": (
        lambda s: changed(s, layer1__0__conv1__weight=torch.ones(4, 8, 1, 1)),
        "a 3x3 convolution of 8 inputs after 4 channels",
    ),
    "groups": (lambda s: changed(s, layer1__0__conv2__weight=torch.ones(8, 4, 3, 3)), "does not fit its architecture"),
    "attention": (lambda s: changed(s, layer1__0__se__fc1__weight=torch.ones(8)), "an SE-ResNet"),
    "split": (lambda s: changed(s, bn1__running_mean=torch.ones(16)), "split batch norm"),
    "no relu": (lambda s: shifted(s, 2), "its stem has no ReLU"),
    "no pool": (lambda s: shifted(s, 3), "no max-pool after its 7x7 stem"),
    "deep stem": (
        lambda s: {("conv1.0.weight" if k == "conv1.weight" else k): v for k, v in s.items()},
        "a stem of three convolutions",
    ),
    "transformer": (lambda _: {"patch_embed.proj.weight": torch.ones(1)}, "a vision transformer"),
    "nothing": (lambda _: {"epoch": 3, "w": torch.ones(2)}, r"its keys \(w, \.\.\.\) are no ResNet's"),
    "a run": (lambda s: {"recipe": {}, "method": s}, "a checkpoint of zoo-train: `zoo-train export"),
    "not a tensor": (
        lambda s: {"model": {**s, "bn1.weight": s["bn1.weight"].numpy()}},
        r"model\.bn1\.weight is a numpy.*: save the full state_dict",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_not_supported_is_named(case: str, net: Network, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        read(make(net.state), tmp_path)
    assert not (tmp_path / "out").exists()


def test_official_files_are_read_as_their_kind(net: Network, tmp_path: Path) -> None:
    projector, predictor = simsiam_projector(256, 64, 2), simsiam_predictor(64, 32)
    heads = under("fc.", dict(projector.state_dict()))
    simsiam = under("module.encoder.", net.state | heads) | under("module.predictor.", dict(predictor.state_dict()))
    moco = under("module.encoder_q.", net.state) | under("module.encoder_k.", net.state)
    swav = net.state | under("projection_head.", dict(byol_mlp(256, 32, 16).state_dict()))
    files: dict[str, object] = {
        "simsiam": {"state_dict": simsiam},
        "moco": {"state_dict": moco, "arch": "resnet50"},
        "swav": under("module.", swav | {"prototypes.weight": torch.ones(10, 16)}),
    }
    for kind, content in files.items():
        torch.save(content, tmp_path / "m.pth")
        found, stated = (convert(tmp_path / "m.pth", k, tmp_path / f"{kind}-{k}") for k in ("auto", kind))
        assert found.config == stated.config, kind
    goldens = Path(__file__).parents[1] / "data"
    simclr = convert(goldens / "simclr_narrow.zip", "auto", tmp_path / "simclr")
    assert (simclr.config.method, simclr.config.architecture.padding) == ("simclr", "same-pool")
    byol = convert(Path(__file__).parents[2] / "goldens" / "byol_r14_free.final.pkl", "auto", tmp_path / "byol")
    assert (byol.config.method, byol.config.architecture.padding) == ("byol", "same")


def test_other_files_are_named_with_the_command_that_takes_them(net: Network, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.json").write_text("[]")
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "_manifest.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08")
    (tmp_path / "m.jpg").write_bytes(b"\xff\xd8\xff" + bytes(20))
    (tmp_path / "m.parquet").write_bytes(b"PAR1" + bytes(20))
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n" + bytes(20))
    (tmp_path / "page.pth").write_bytes(b"\n<!DOCTYPE html><html>")
    (tmp_path / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    np.savez(tmp_path / "m.npz", x=np.ones(2))
    converted = read(net.state, tmp_path)
    says = {
        "run": "a run of zoo-train: `zoo-train export",
        "result": "holds embeddings of `zoo extract`",
        "empty": "a folder without a checkpoint",
        "m.onnx": "an ONNX file: give it as --model",
        "m.jpg": "an image: `zoo extract --images` takes it",
        "m.parquet": "a table of Parquet",
        "m.h5": "an HDF5 file",
        "page.pth": "a web page, not weights",
        "pointer.pth": "a pointer of Git LFS: run `git lfs pull`",
        "m.npz": "arrays of numpy",
        converted.folder.name: "a converted model already: give it as --model",
        "absent.pth": "cannot read .*No such file",
    }
    for name, message in says.items():
        with pytest.raises(UserError, match=message):
            convert(tmp_path / name, "auto", tmp_path / "new")


def test_the_command_says_what_it_found_and_what_it_dropped(
    net: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": under("backbone.", net.state), "args": argparse.Namespace(a=1)}
    torch.save(content, "m.ckpt")
    done = CliRunner().invoke(app, ["convert", "m.ckpt", "--out", "new", "--input-size", "96", "--resize", "112"])
    assert done.exit_code == 0, done.output
    assert "found a ResNet in torchvision's names under 'state_dict.backbone.'" in done.output
    assert "not read, as only tensors and plain values are: args (argparse.Namespace)" in done.output
    assert locate("./new").preprocessing.input_size == 96


def test_a_zip_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(UserError, match=r"^m\.pth"):
        convert(tmp_path / "m.pth", "auto", tmp_path / "out")


def test_real_libraries(net: Network, tmp_path: Path) -> None:
    """lightly's modules in a checkpoint that Lightning's Trainer wrote."""
    modules = pytest.importorskip("lightly.models.modules")
    lightning = pytest.importorskip("pytorch_lightning")
    resnet = pytest.importorskip("torchvision").models.resnet18()

    class SimSiam(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.backbone = nn.Sequential(*list(resnet.children())[:-1])
            self.projection_head = modules.SimSiamProjectionHead(512, 64, 32)
            self.prediction_head = modules.SimSiamPredictionHead(32, 16, 32)

        def training_step(self, batch: Any, _: int) -> Any:
            return self.prediction_head(self.projection_head(self.backbone(batch[0]).flatten(1))).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32))
    model = SimSiam()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_steps=2, default_root_dir=tmp_path, accelerator="cpu", **quiet)
    trainer.fit(model, torch.utils.data.DataLoader(data, 2))
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    converted = convert(tmp_path / "m.ckpt", "auto", tmp_path / "out")
    model.eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.backbone(pixels).flatten(1)
        assert torch.equal(load_encoder(locate(converted.folder))(pixels), expected)
        heads = load_heads(locate(converted.folder))
        assert heads is not None
        assert torch.equal(heads.projector(expected), model.projection_head(expected))


def test_a_part_of_a_head_is_no_head(net: Network, tmp_path: Path) -> None:
    """DINO's head, as lightly has it: three layers with GELU between, then a normalised last layer."""
    layers = nn.Sequential(nn.Linear(256, 32), nn.GELU(), nn.Linear(32, 16))
    last = {"last_layer.parametrizations.weight.original1": torch.ones(8, 16)}
    own = under("projection_head.layers.", dict(layers.state_dict())) | under("projection_head.", last)
    converted = read({"state_dict": under("backbone.", net.state) | own}, tmp_path)
    assert not converted.config.heads
    assert "state_dict.projection_head.layers.0.weight" in converted.left_out


def test_the_activation_that_is_assumed_is_said(net: Network, tmp_path: Path) -> None:
    own = under("projector.", dict(byol_mlp(256, 32, 16).state_dict()))
    converted = read({"state_dict": under("backbone.", net.state) | own}, tmp_path)
    assert converted.found.endswith("heads: projector (their layers without tensors are read as ReLU)")
