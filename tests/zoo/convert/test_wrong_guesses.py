"""A file that is not what it is taken for: read rightly, or refused in one line, and never loaded in part unsaid."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from official_files import Network, under
from torch import Tensor
from typer.testing import CliRunner

from zoo.cli.main import app
from zoo.convert import convert as conversion
from zoo.convert.convert import Converted, convert
from zoo.errors import UserError
from zoo.hub.networks import load_encoder
from zoo.hub.pretrained import fetch_by_name
from zoo.hub.weights import locate
from zoo.models.model_config import MODEL
from zoo.models.registry import ARCHITECTURES, MODELS, HashPrefix

State = dict[str, Tensor]


def read(content: object, kind: str, tmp_path: Path, *, file: str = "m.pth", **options: Any) -> Converted:
    path = tmp_path / file
    torch.save(content, path)
    return convert(path, kind, tmp_path / f"out.{len(list(tmp_path.iterdir()))}", **options)


def is_network(converted: Converted, net: Network) -> bool:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(load_encoder(locate(converted.folder))(pixels), net.module(pixels))


def fc(state: State) -> State:
    return state | {"fc.weight": torch.ones(10, 256), "fc.bias": torch.ones(10)}


def mlp(state: State) -> State:
    layers = {"0.weight": torch.ones(16, 256), "0.bias": torch.ones(16), "2.weight": torch.ones(8, 16)}
    return state | under(layers | {"2.bias": torch.ones(8)}, "fc.")


def swav(state: State) -> State:
    head = {"0.weight": torch.ones(16, 256), "0.bias": torch.ones(16), "2.weight": torch.ones(8, 16)}
    head = under(head | {"2.bias": torch.ones(8)}, "projection_head.")
    return under(state | head | {"prototypes.weight": torch.ones(30, 8)}, "module.")


def moco(state: State, average: State | None = None) -> State:
    both = under(mlp(state), "module.encoder_q.") | {"module.queue": torch.ones(8, 16)}
    return both | (under(mlp(average), "module.encoder_k.") if average else {})


# ---------------------------------------------------------------- every layout is the same network in the end


def test_one_network_in_every_layout_is_the_same_file_of_weights(net: Network, tmp_path: Path) -> None:
    """What the loaders read (tests/test_loaders.py) has the same bytes, whichever official code wrote the file."""
    s = net.state
    blocks = under(s, "_feature_blocks.")
    files: list[tuple[str, object]] = [
        ("simsiam", {"state_dict": under(s, "module.encoder.") | {"module.predictor.0.weight": torch.ones(4, 8)}}),
        ("moco", {"state_dict": under(s, "module.encoder_q.")}),
        ("swav", swav(s)),
        ("mocov3", {"state_dict": under(s, "module.base_encoder.")}),
        ("dino", s),
        ("barlowtwins", s),
        ("barlowtwins", {"model": under(s, "module.backbone.")}),
        ("vicreg", s),
        ("densecl", {"state_dict": s, "author": "DenseCL"}),
        ("lemniscate", {"state_dict": under(s, "module.")}),
        ("pycontrast", {"model": under(s, "module.encoder.")}),
        ("cmc", {"model": under(s, "encoder.module.")}),
        ("vissl", {"classy_state_dict": {"base_model": {"model": {"trunk": blocks, "heads": {}}}}}),
        ("vissl", {"model_state_dict": blocks}),
        ("torch", s),
        ("auto", s),
    ]
    padded = {"deepmind-byol", "simclr", "localagg"}  # as TensorFlow does
    assert {kind for kind, _ in files} == set(conversion.KINDS) - padded
    found = [(kind, read(content, kind, tmp_path).config) for kind, content in files]
    _, first = found[0]
    for kind, config in found:
        assert (config.sha256[MODEL], config.architecture) == (first.sha256[MODEL], first.architecture), kind


# ---------------------------------------------------------------- another code's file


@pytest.mark.parametrize("kind", ["swav", "dino", "barlowtwins", "vicreg", "vissl"])
def test_a_supervised_network_is_no_backbone_of_a_method(kind: str, net: Network, tmp_path: Path) -> None:
    """It was converted, its classifier was left out, and it was called by the method's name."""
    with pytest.raises(
        UserError, match=r"'s official code \(which writes no fc\.weight\); without --from, `zoo convert`"
    ):
        read(fc(net.state), kind, tmp_path)


@pytest.mark.parametrize("kind", ["moco", "simsiam", "mocov3", "densecl", "lemniscate", "pycontrast", "cmc"])
def test_what_lacks_a_code_s_keys_is_refused_with_the_way_out(kind: str, net: Network, tmp_path: Path) -> None:
    """Of MoCo's and SimSiam's readers only "('state_dict')" was said."""
    for content in (swav(net.state), {"state_dict": under(net.state, "backbone.")}):
        with pytest.raises(
            UserError, match=r"official code \(.*\); without --from, `zoo convert` finds out what a file is"
        ):
            read(content, kind, tmp_path)


def test_a_file_with_more_than_the_code_writes_is_refused(net: Network, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"which writes no state_dict\.module\.projection_head\.0\.weight"):
        read({"state_dict": swav(net.state)}, "lemniscate", tmp_path)  # SwAV's whole checkpoint
    with pytest.raises(UserError, match=r"which writes no state_dict\.head\.fc_cls\.weight"):
        read({"state_dict": net.state | {"head.fc_cls.weight": torch.ones(10, 256)}}, "densecl", tmp_path)


def test_a_third_network_is_not_left_out_unsaid(net: Network, average: Network, tmp_path: Path) -> None:
    """A fork of SimSiam with a moving average was read as SimSiam."""
    two = under(mlp(net.state), "module.encoder.") | under(mlp(average.state), "module.momentum_encoder.")
    two["module.predictor.0.weight"] = torch.ones(4, 8)
    with pytest.raises(UserError, match="2 networks: choose one with --prefix"):
        read({"state_dict": two}, "auto", tmp_path)
    left_out = read({"state_dict": two}, "simsiam", tmp_path).left_out
    assert "momentum_encoder.conv1.weight" in left_out
    assert not any(key.startswith(("encoder.", "predictor.")) for key in left_out)


def test_timm_s_moving_average_is_not_passed_over(net: Network, average: Network, tmp_path: Path) -> None:
    """``--from torch`` took ``state_dict``, and said nothing of ``state_dict_ema``."""
    content = {
        "epoch": 3,
        "arch": "resnet50",
        "state_dict": fc(net.state),
        "state_dict_ema": fc(average.state),
        "args": argparse.Namespace(lr=0.1),
    }
    with pytest.raises(
        UserError, match=r"2 networks: choose one by --from auto --prefix: 'state_dict\.', 'state_dict_e"
    ):
        read(content, "torch", tmp_path)
    assert is_network(read(content, "auto", tmp_path, prefix="state_dict_ema."), average)
    assert is_network(read(content, "torch", tmp_path, prefix=""), net)  # as before: of state_dict


# ---------------------------------------------------------------- wrappers


@pytest.mark.parametrize("wrapper", ["module.", "module._orig_mod.", "_orig_mod.module.", "module.module."])
def test_official_layouts_under_any_wrapper(wrapper: str, net: Network, tmp_path: Path) -> None:
    """They were read by auto as a network of unknown method, with other pixels, or refused by the kind's reader."""

    def wrapped(state: State) -> State:
        return {wrapper + key.removeprefix("module."): value for key, value in state.items()}

    simsiam = under(mlp(net.state), "encoder.") | {"predictor.0.weight": torch.ones(4, 8)}
    files = {
        "swav": wrapped(swav(net.state)),
        "moco": {"state_dict": wrapped(moco(net.state))},
        "simsiam": {"state_dict": wrapped(simsiam)},
    }
    for kind, content in files.items():
        for stated in ("auto", kind):
            converted = read(content, stated, tmp_path)
            assert (converted.config.method, converted.config.extra["converted_from"]) == (kind, kind)
            assert "projector" in converted.config.heads
            assert is_network(converted, net)


def test_ddp_in_ddp_of_other_codes(net: Network, tmp_path: Path) -> None:
    content = {"model": under(net.state, "module.module.backbone.")}
    assert is_network(read(content, "barlowtwins", tmp_path), net)


def test_keys_with_and_without_a_wrapper_are_two_networks(net: Network, average: Network, tmp_path: Path) -> None:
    both = {"state_dict": under(net.state, "encoder_q.") | under(average.state, "module.encoder_q.")}
    with pytest.raises(UserError, match="the same keys with and without module"):
        read(both, "moco", tmp_path)
    with pytest.raises(UserError, match="2 networks: choose one with --prefix"):
        read(both, "auto", tmp_path)


# ---------------------------------------------------------------- which of two networks


def test_the_command_says_which_of_two_networks_was_taken(
    net: Network, average: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files: dict[str, tuple[object, str, str]] = {
        "dino": (
            {"student": under(net.state, "module.backbone."), "teacher": under(average.state, "backbone.")},
            "student (--which online)",
            "--which target takes the teacher, which its authors evaluate and publish",
        ),
        "moco": (
            {"state_dict": moco(net.state, average.state)},
            "query encoder (--which online)",
            "--which target takes the key encoder",
        ),
        "pycontrast": (
            {"model": under(net.state, "module.encoder."), "model_ema": under(average.state, "encoder.")},
            "trained network (--which online)",
            "--which target takes the network that is its moving average",
        ),
    }
    for kind, (content, taken, other) in files.items():
        torch.save(content, "m.pth")
        done = CliRunner().invoke(app, ["convert", "m.pth", "--from", kind, "--out", kind])
        assert done.exit_code == 0, done.output
        said = " ".join(done.output.split())
        assert f"found two networks: took the {taken}; {other}" in said
        assert f"took the {other.rpartition('takes the ')[2]}" in (
            convert(Path("m.pth"), kind, tmp_path / f"{kind}.target", which="target").found
        )
    for folder in ("moco", "moco.target"):  # and still says it of the folder
        said = CliRunner().invoke(app, ["info", f"./{folder}"]).output
        which = "target" if "target" in folder else "online"
        assert f"  converted  --from moco, the {which} network\n" in said
    alone = read({"state_dict": moco(net.state)}, "moco", tmp_path)
    assert (alone.found, alone.left_out) == ("", ("queue",))


@pytest.mark.parametrize("kind", ["auto", "torch", "vicreg", "vissl"])
def test_a_stem_of_several_convolutions_is_not_read_as_its_first(kind: str, net: Network, tmp_path: Path) -> None:
    """As CLIP's: three of 3x3, here all as wide as the first stage, so that the first alone seemed a small stem."""
    deep = net.state | {"conv1.weight": torch.ones(8, 3, 3, 3), "conv2.weight": torch.ones(8, 8, 3, 3)}
    deep |= under({k.removeprefix("bn1."): v for k, v in net.state.items() if k.startswith("bn1.")}, "bn2.")
    with pytest.raises(UserError, match=r"conv2\.weight beside conv1: a stem of several convolutions"):
        read(deep, kind, tmp_path)


@pytest.mark.parametrize("kind", ["auto", "torch", "vicreg", "vissl"])
@pytest.mark.parametrize("key", ["maxpool.0.weight", "attnpool.q_proj.weight", "pool.p", "global_pool.p", "avgpool.p"])
def test_a_pool_with_weights_is_not_left_out(key: str, kind: str, net: Network, tmp_path: Path) -> None:
    """timm's stem with a convolution for the pool, CLIP's attention, the generalised mean."""
    with pytest.raises(UserError, match=rf"{key}: a pool with weights of its own"):
        read(net.state | {key: torch.ones(1)}, kind, tmp_path)


def test_a_network_in_a_dict_of_another_name_is_found_by_auto(net: Network, tmp_path: Path) -> None:
    nested = {"mine": {"net": under(net.state, "backbone.")}}
    with pytest.raises(
        UserError, match=r"which network is meant\? --from auto finds one under 'mine\.net\.backbone\.'"
    ):
        read(nested, "torch", tmp_path)
    assert read(nested, "auto", tmp_path).config.architecture.num_features == 256


def test_the_head_of_instdisc_is_no_classifier(net: Network, tmp_path: Path) -> None:
    """``auto`` took its 128 features for classes."""
    head = {"module.fc.weight": torch.ones(16, 256), "module.fc.bias": torch.ones(16)}
    bank = argparse.Namespace(memory=torch.ones(4, 16))  # in the place of lemniscate's NCEAverage
    content = {"state_dict": under(net.state, "module.") | head, "lemniscate": bank, "epoch": 200, "arch": "resnet50"}
    config = read(content, "auto", tmp_path).config
    assert (config.method, config.extra["converted_from"], list(config.heads)) == (
        "instdisc", "lemniscate", ["projector"],
    )  # fmt: skip
    del content["lemniscate"]
    assert list(read(content, "auto", tmp_path).config.heads) == [
        "classifier"
    ]  # nothing tells it from a supervised one


def test_auto_names_the_kind_that_knows_more(net: Network, tmp_path: Path) -> None:
    """It reads the network, but not the code's heads, method and pixels."""
    blocks = under(net.state, "_feature_blocks.")
    files = {
        "vissl": {"classy_state_dict": {"base_model": {"model": {"trunk": blocks, "heads": {}}}}},
        "barlowtwins or vicreg": {"model": under(net.state, "module.backbone.")},
        "cmc": {"model": under(net.state, "encoder.module.")},
        "densecl": {"state_dict": under(net.state, "encoder_q.0.")},
    }
    for kinds, content in files.items():
        found = read(content, "auto", tmp_path).found
        assert found.endswith(f"; if it is an official file, --from {kinds} knows its heads, method and pixels")
    for content in (
        net.state,
        {"state_dict": under(net.state, "module.")},
        {"state_dict": under(net.state, "backbone.")},
    ):
        assert "--from" not in read(content, "auto", tmp_path).found


def test_a_name_of_the_registry_is_not_the_student(
    net: Network,
    average: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``zoo fetch dino_r50 --file FULL_CHECKPOINT`` kept the student as the published teacher."""
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(ARCHITECTURES, "r50", read(net.state, "dino", tmp_path).config.architecture)  # type: ignore[arg-type]
    content = {"student": under(net.state, "module.backbone."), "teacher": under(average.state, "backbone.")}
    torch.save(content, tmp_path / "full.pth")
    with pytest.raises(UserError, match=r"full\.pth is no file of dino_r50\.fair_in1k, .* took the student"):
        fetch_by_name("dino_r50", file=tmp_path / "full.pth")
    torch.save(average.state, tmp_path / "backbone.pth")
    assert fetch_by_name("dino_r50", file=tmp_path / "backbone.pth").is_dir()
    # Flat files of DINO, Barlow Twins and VICReg have the same keys: only a hash could tell them.
    assert "dino_r50.fair_in1k: its authors publish no hash, so only you know that" in capsys.readouterr().err


def test_a_name_of_the_registry_is_not_another_file_of_it(
    net: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every ``resnet50.pth`` has the same keys: the hash tells a known one."""
    torch.save(net.state, tmp_path / "resnet50.pth")
    digits = hashlib.sha256((tmp_path / "resnet50.pth").read_bytes()).hexdigest()[:8]
    spec = MODELS["supervised_r50"]
    known = replace(spec.weights["tv_v1"], hash_prefix=HashPrefix("sha256", digits, "its name"))
    changed = replace(spec, weights={**spec.weights, "tv_v1": known})
    monkeypatch.setattr(conversion, "MODELS", {**MODELS, spec.name: changed})
    with pytest.raises(UserError, match=r"is supervised_r50\.tv_v1 by its hash, not barlowtwins_r50\.fair_in1k_1000ep"):
        convert(
            tmp_path / "resnet50.pth", "barlowtwins", tmp_path / "out", name="barlowtwins_r50", tag="fair_in1k_1000ep"
        )
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_other_precisions_become_float32(dtype: torch.dtype, net: Network, tmp_path: Path) -> None:
    stored = {key: value.to(dtype) for key, value in net.state.items()}
    found = load_encoder(locate(read(stored, "auto", tmp_path).folder)).state_dict()
    expected = load_encoder(locate(read({k: v.float() for k, v in stored.items()}, "auto", tmp_path).folder))
    assert all(torch.equal(value, found[key]) for key, value in expected.state_dict().items())
    assert {v.dtype for k, v in found.items() if "num_batches" not in k} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("kind", ["auto", "torch", "vicreg"])
def test_quantised_weights_are_refused(dtype: torch.dtype, kind: str, net: Network, tmp_path: Path) -> None:
    """Whole numbers were read without the scales that they need; float8 was a traceback."""
    stored = {key: (value.to(dtype) if value.ndim == 4 else value) for key, value in net.state.items()}
    with pytest.raises(UserError, match="holds numbers of a kind that is not read, first in"):
        read(stored, kind, tmp_path)
    with pytest.raises(UserError, match="the classifier of m holds numbers of a kind that is not read"):
        read(net.state | {"fc.weight": torch.ones(10, 256).to(dtype), "fc.bias": torch.ones(10)}, "torch", tmp_path)


def test_counters_are_whole_numbers_or_missing(net: Network, tmp_path: Path) -> None:
    counted = net.state | {"bn1.num_batches_tracked": torch.tensor(3)}
    assert is_network(read(counted, "auto", tmp_path), net)


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("stated", [[], ["--from", "moco"]])
def test_the_size_that_a_user_gives_is_not_passed_over(
    stated: list[str], net: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that the official code trained on small images: 224 was written, and nothing said."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": moco(net.state)}, "m.pth")
    for number, (options, sizes) in enumerate(
        (
            ([], (224, 256)),
            (["--input-size", "32", "--resize", "36"], (32, 36)),
            (["--input-size", "192"], (192, 256)),
        )
    ):
        done = CliRunner().invoke(app, ["convert", "m.pth", "--out", str(number), *stated, *options])
        assert done.exit_code == 0, done.output
        transform = locate(f"./{number}").preprocessing
        assert (transform.input_size, transform.resize) == sizes
        assert transform.interpolation == "bilinear"  # as the official code
    done = CliRunner().invoke(app, ["convert", "m.pth", "--out", "x", *stated, "--mean", "0.5,0.5,0.5"])
    assert isinstance(done.exception, UserError)
    assert "moco" in str(done.exception)
    assert "says its" in str(done.exception)
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------- BGR


def turned(state: State) -> State:
    return state | {"conv1.weight": state["conv1.weight"].flip(1)}


def folded(state: State) -> State:
    """As Detectron's: BN is an affine layer, and detectron2 subtracts its epsilon."""
    first = {"running_mean": 0.0, "running_var": 1 - 1e-5}
    return {
        k: torch.full_like(v, first.get(k.rpartition(".")[2], 0.5)) if "running" in k else v for k, v in state.items()
    }


@pytest.mark.parametrize(
    ("file", "more", "reason"),
    [
        ("resnet50_caffe-788b5fa3.pth", {}, "'caffe' in its name"),
        ("R50_BGR.pth", {}, "'BGR' in its name"),
        ("converted_caffe2.pth", {}, "'caffe2' in its name"),
        ("m.pth", {"__author__": "Caffe2"}, "its __author__ 'Caffe2'"),
        ("model_final_280758.pth", {"__author__": "Detectron2 Model Zoo"}, "its __author__"),
    ],
)
def test_a_network_of_caffe_is_read_when_the_user_says_so(
    file: str, more: dict[str, str], reason: str, net: Network, tmp_path: Path
) -> None:
    """It was read as a network of RGB images."""
    content = {"model": turned(net.state)} | more
    with pytest.raises(UserError, match=rf"for BGR images \({reason}.*--bgr turns its first convolution to RGB, with"):
        read(content, "auto", tmp_path, file=file)
    for kind in ("auto", "torch"):
        assert is_network(read(content, kind, tmp_path, file=file, bgr=True), net)
    assert not is_network(read(content, "torch", tmp_path, file=file), net)  # as it is: the user says RGB


def test_folded_norms_are_those_of_caffe_but_not_of_an_untrained_network(net: Network, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"for BGR images \(its BN layers, whose moving averages are 0 and 1\)"):
        read(folded(net.state), "auto", tmp_path)
    fresh = {k: torch.zeros_like(v) if k.endswith(("bias", "running_mean")) else v for k, v in net.state.items()}
    fresh = {k: torch.ones_like(v) if v.ndim == 1 and k.endswith(("weight", "var")) else v for k, v in fresh.items()}
    read(fresh, "auto", tmp_path)
    read({"model": net.state, "__author__": "MOCO"}, "auto", tmp_path)  # moco's own detection/convert-pretrain, RGB


def test_bgr_is_for_plain_networks_of_three_channels(net: Network, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--bgr belongs to --from auto and --from torch: swav says its own"):
        read(swav(net.state), "swav", tmp_path, bgr=True)
    with pytest.raises(UserError, match="a checkpoint of swav, which takes RGB images: leave --bgr out"):
        read(swav(net.state), "auto", tmp_path, bgr=True)
    gray = net.state | {"conv1.weight": net.state["conv1.weight"][:, :1].clone()}
    with pytest.raises(UserError, match="takes 1 channels: --bgr is for 3"):
        read(gray, "auto", tmp_path, bgr=True)


def test_caffe2_s_own_names_are_named(tmp_path: Path) -> None:
    blobs = {"blobs": {"conv1_w": torch.ones(64, 3, 7, 7), "res2_0_branch2a_w": torch.ones(64, 64, 1, 1)}}
    with pytest.raises(UserError, match=r"a network in Caffe2's names, for BGR images: .* --bgr2rgb True"):
        read(blobs, "auto", tmp_path)
