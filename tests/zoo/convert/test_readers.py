"""Official files in, the same network out: `zoo convert` and `zoo.load` against what each layout means."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import TarInfo
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_files import deepmind, narrow, network, under, vary
from torch import Tensor, nn

import zoo
from zoo.convert import localagg
from zoo.convert.convert import KINDS, convert
from zoo.convert.readers import tf_checkpoint
from zoo.convert.readers.tf_checkpoint import Bundle, read_bundle
from zoo.errors import UserError
from zoo.export.checkpoint_formats import rename
from zoo.models.heads import byol_mlp
from zoo.models.registry import FAIR_224, SIMCLR_224, SWAV_224, Architecture
from zoo.sources import tar_members

DATA = Path(__file__).parents[1] / "data"


def error(ours: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    a, b = torch.as_tensor(ours).detach().double(), torch.as_tensor(reference).detach().double()
    return float((a - b).abs().max() / b.abs().max())


def same(embedder: zoo.Embedder, module: nn.Module, size: tuple[int, int] = (65, 48)) -> bool:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return error(embedder.model(x), module(x)) < 1e-5


def converted(file: Path, kind: str, **options: Any) -> zoo.Embedder:
    convert(file, kind, file.parent / "out", **options)
    return zoo.load(file.parent / "out", device="cpu")


# ---------------------------------------------------------------- against outputs of the official codes


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-6)], ids=["f32", "f64"])
def test_byol_goldens_through_a_folder(byol_group: Path, tmp_path: Path, dtype: torch.dtype, limit: float) -> None:
    through_a_folder(byol_group, ".final.pkl", "deepmind-byol", tmp_path, dtype, limit)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-6)], ids=["f32", "f64"])
def test_simsiam_goldens_through_a_folder(
    simsiam_group: Path, tmp_path: Path, dtype: torch.dtype, limit: float
) -> None:
    through_a_folder(simsiam_group, ".final.pth.tar", "simsiam", tmp_path, dtype, limit)


def through_a_folder(group: Path, ending: str, kind: str, tmp_path: Path, dtype: torch.dtype, limit: float) -> None:
    """Embedding, projection, prediction at even, odd and mixed sizes, from what ``zoo.load`` opens."""
    if not group.with_name(group.name + ending).exists():
        pytest.skip(f"{group.name} has no final checkpoint")
    convert(group.with_name(group.name + ending), kind, tmp_path / "m")
    embedder = zoo.load(tmp_path / "m", device="cpu")
    assert embedder.heads is not None
    heads = embedder.heads.to(dtype)
    model, data = embedder.model.to(dtype), np.load(group.with_suffix(".npz"))
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    sizes = [k.removeprefix("eval_image_") for k in data if k.startswith("eval_image_")]
    assert sizes
    for size in sizes:
        x = torch.tensor(data[f"eval_image_{size}"], dtype=torch.float64).sub(mean).div(std)
        with torch.no_grad():
            embedding = model(x.permute(0, 3, 1, 2).to(dtype))
            projection = heads.projector(embedding)
            prediction = heads.predictor(projection)
        for name, ours in (("embedding", embedding), ("projection", projection), ("prediction", prediction)):
            assert error(ours, data[f"eval_{name}_{size}"]) < limit, (name, size)


@pytest.mark.parametrize("form", ["zip", "folder", "index"])
def test_simclr_against_its_tensorflow_graph(tmp_path: Path, form: str) -> None:
    """A checkpoint that TensorFlow 2.21's Saver wrote, and what its graph computed (``data/write_simclr.py``)."""
    file = DATA / "simclr_narrow.zip"
    if form != "zip":
        zipfile.ZipFile(file).extractall(tmp_path)
        file = tmp_path / "ResNet50_1x"
        if form == "index":
            file = next(file.glob("*.index"))
    convert(file, "simclr", tmp_path / "out")
    embedder = zoo.load(tmp_path / "out", device="cpu")
    assert embedder.preprocessing == SIMCLR_224
    data = np.load(DATA / "simclr_narrow.npz")
    for size in ("64x64", "65x65", "39x50"):
        x = torch.from_numpy(embedder.preprocessing.normalise(data[f"image_{size}"]))
        with torch.no_grad():
            embedding = embedder.model(x)
            assert error(embedding, data[f"embedding_{size}"]) < 1e-5
            assert error(embedder.heads.projector(embedding), data[f"projection_{size}"]) < 1e-5
            assert error(embedder.heads.classifier(embedding), data[f"logits_{size}"]) < 1e-5  # its bias is there


@pytest.mark.parametrize("form", ["zip", "tar", "folder", "index"])
def test_local_aggregation_against_its_tensorflow_graph(tmp_path: Path, form: str) -> None:
    """A checkpoint that TensorFlow's Saver wrote of the official network, and what it gives (``write_localagg.py``)."""
    file = localagg_file(tmp_path / "official", form)
    converted = convert(file, "auto", tmp_path / "out")
    assert converted.left_out == ("global_step", "instance/all_labels", "instance/memory_bank")
    embedder = zoo.load(tmp_path / "out", device="cpu")
    assert embedder.preprocessing == FAIR_224
    data = np.load(DATA / "localagg_narrow.npz")
    for size in ("64x64", "65x65", "39x50"):
        x = torch.from_numpy(data[f"image_{size}"].astype(np.float32) / 64 - 2).permute(0, 3, 1, 2)
        with torch.no_grad():
            embedding = embedder.model(x)
            logits = embedder.heads.projector(embedding)
            output = nn.functional.normalize(logits)
        assert error(embedding, data[f"embedding_{size}"]) < 1e-5
        assert error(logits, data[f"logits_{size}"]) < 1e-5
        assert error(output, data[f"output_{size}"]) < 1e-5


def localagg_file(folder: Path, form: str) -> Path:
    """The checkpoint of Local Aggregation as a zip, an unpacked folder, its index, or a tar as the authors have it."""
    folder.mkdir()
    with zipfile.ZipFile(DATA / "localagg_narrow.zip") as archive:
        archive.extractall(folder)
    (index,) = folder.glob("*.index")
    if form == "tar":
        with tarfile.open(folder.parent / "checkpoint-1901710.tar", "w") as tar:
            tar.add(folder, "la_orig")
        return folder.parent / "checkpoint-1901710.tar"
    return {"zip": DATA / "localagg_narrow.zip", "folder": folder, "index": index}[form]


def test_other_libraries_do_not_have_the_network_of_local_aggregation(tmp_path: Path) -> None:
    folder = convert(DATA / "localagg_narrow.zip", "auto", tmp_path / "out").folder
    notes = rename(str(folder), "timm", tmp_path / "x.pth").notes
    assert "names only: timm builds no projection in the first block; use zoo.load, torch.hub or ONNX" in notes
    with pytest.raises(UserError, match="which torchvision does not have"):
        rename(str(folder), "torchvision", tmp_path / "x.pth")


def _without_a_block(arrays: dict[str, np.ndarray]) -> None:
    for name in [name for name in arrays if re.search(r"/conv2d_[67]/", name)]:
        del arrays[name]


def _another_norm(arrays: dict[str, np.ndarray]) -> None:
    arrays["instance/resnet_model/batch_normalization_3/gamma"] = np.ones(9, np.float32)


def _bottlenecks(arrays: dict[str, np.ndarray]) -> None:
    arrays["instance/resnet_model/conv2d_2/kernel"] = np.ones((1, 1, 8, 8), np.float32)


@pytest.mark.parametrize("change", [_without_a_block, _another_norm, _bottlenecks])
def test_another_network_of_local_aggregation_is_refused(
    change: Callable[[dict[str, np.ndarray]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = read_bundle(DATA / "localagg_narrow.zip")
    change(arrays)
    monkeypatch.setattr(Bundle, "read", lambda self, wanted: {k: v for k, v in arrays.items() if wanted(k)})
    with pytest.raises(UserError, match=r"localagg_narrow.zip (is not a checkpoint|does not fit|has)"):
        localagg.read_official(DATA / "localagg_narrow.zip", "online")


def test_the_tar_of_local_aggregation_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = localagg_file(tmp_path / "official", "tar")
    walked: list[Path] = []

    def counted(opened: BinaryIO, size: int, path: Path) -> Iterator[TarInfo]:
        walked.append(path)
        return tar_members.members(opened, size, path)

    monkeypatch.setattr(tf_checkpoint, "members", counted)
    localagg.read_official(file, "online")
    assert walked == [file]


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_a_damaged_checkpoint_of_local_aggregation_is_one_line(tmp_path: Path, form: str) -> None:
    file = localagg_file(tmp_path / "official", form)
    data = file if form == "tar" else next(file.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(UserError, match=r"not a TensorFlow checkpoint|no readable tar file"):
        convert(file, "localagg", tmp_path / "out")


def test_a_compressed_tar_of_a_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    file = localagg_file(tmp_path / "official", "tar")
    packed = tmp_path / "checkpoint.tar.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(UserError, match=r"is compressed: unpack it, and give the folder with the .index file"):
        convert(packed, "auto", tmp_path / "out")


def test_checkpoints_of_tensorflow_are_not_taken_for_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint of SimCLR"):
        convert(DATA / "localagg_narrow.zip", "simclr", tmp_path / "out")
    with pytest.raises(UserError, match="not a checkpoint of Local Aggregation's"):
        convert(DATA / "simclr_narrow.zip", "localagg", tmp_path / "out")


# ---------------------------------------------------------------- every depth, width and kind of block


@pytest.mark.parametrize(
    "architecture",
    [
        narrow([1, 2, 12, 1], padding="same"),
        narrow([1, 1, 1, 1], 0.375, padding="same"),
        Architecture("resnet18", 512, 0, padding="same", project_first=True),
    ],
    ids=["two-digit blocks", "another width", "basic blocks with a projection in group 0"],
)
def test_deepmind_networks_of_any_depth_and_width(tmp_path: Path, architecture: Architecture) -> None:
    online, target = network(architecture, 0), network(architecture, 1)
    heads: dict[str, nn.Module] = {
        "projector": byol_mlp(architecture.num_features, 32, 16),
        "predictor": byol_mlp(16, 32, 16),
        "classifier": nn.Linear(architecture.num_features, 10),
    }
    for module in heads.values():
        vary(module.eval())
    file = deepmind(tmp_path / "x.pkl", online.state, target.state, heads)
    for which, expected in (("online", online), ("target", target)):
        convert(file, "deepmind-byol", tmp_path / which, which=which)
        embedder = zoo.load(tmp_path / which, device="cpu")
        assert same(embedder, expected.module)
        assert embedder.heads is not None
        z = torch.randn(2, architecture.num_features)
        with torch.no_grad():
            projection = heads["projector"](z)
            assert error(embedder.heads.projector(z), projection) < 1e-6
            assert error(embedder.heads.predictor(projection), heads["predictor"](projection)) < 1e-6
            assert error(embedder.heads.classifier(z), heads["classifier"](z)) < 1e-6


@pytest.mark.parametrize("version", [1, 2])
def test_moco_query_and_key_encoder(tmp_path: Path, version: int) -> None:
    query, key = (network(narrow([1, 1, 1, 1]), seed) for seed in (0, 1))
    fc = {"fc.0.weight": torch.randn(8, 256), "fc.0.bias": torch.randn(8), "fc.2.weight": torch.randn(4, 8)}
    fc = {"fc.weight": torch.randn(4, 256)} if version == 1 else fc | {"fc.2.bias": torch.randn(4)}
    state = under(query.state | fc, "module.encoder_q.") | {"module.queue": torch.randn(4, 9)}
    if version == 2:  # the published files hold the query encoder alone
        state |= under(key.state | fc, "module.encoder_k.")
    torch.save({"epoch": 200, "arch": "resnet50", "state_dict": state}, tmp_path / "m.tar")
    embedder = converted(tmp_path / "m.tar", "moco")
    assert embedder.weights_info["licence"] == "unknown"
    assert same(embedder, query.module)
    assert len(embedder.heads.projector) == 2 * version - 1
    if version == 2:
        convert(tmp_path / "m.tar", "moco", tmp_path / "key", which="target")
        assert same(zoo.load(tmp_path / "key", device="cpu"), key.module)
    else:
        with pytest.raises(UserError, match="--which online only"):
            convert(tmp_path / "m.tar", "moco", tmp_path / "key", which="target")


@pytest.mark.parametrize("form", ["flat", "training", "wide without heads"])
def test_swav_flat_with_prototypes(tmp_path: Path, form: str) -> None:
    net = network(narrow([1, 1, 1, 1], 0.25 if "wide" in form else 0.125))
    dim = net.module.num_features
    head = byol_mlp(dim, 32, 16)
    heads = under(head.state_dict(), "projection_head.") | {"prototypes.weight": torch.randn(30, 16)}
    state = under(net.state | ({} if "wide" in form else heads), "module.")
    torch.save({"epoch": 1, "state_dict": state} if form == "training" else state, tmp_path / "s.pth.tar")
    embedder = converted(tmp_path / "s.pth.tar", "swav")
    assert same(embedder, net.module)
    assert embedder.preprocessing == SWAV_224
    assert embedder.preprocessing.std[0] == 0.228
    if "wide" in form:
        assert embedder.heads is None
    else:
        z = torch.randn(2, dim)
        with torch.no_grad():
            assert error(embedder.heads.projector(z), head.eval()(z)) < 1e-6
        assert embedder.heads.prototypes[0].weight.shape == (30, 16)


def test_simclr_v2_s_selective_kernels_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``sk_conv2d`` of google-research/simclr: the mixing weights are a convolution without batch normalisation."""
    norm = {f"base_model/batch_normalization/{leaf}": np.ones(4, np.float32) for leaf in ("gamma", "beta")}
    kernels = {f"base_model/conv2d{n}/kernel": np.ones((1, 1, 4, 4), np.float32) for n in ("", "_1")}
    monkeypatch.setattr("zoo.convert.simclr.read_bundle", lambda _: norm | kernels)
    with pytest.raises(UserError, match=r"SimCLR v2's selective kernels \(sk1\) do: not supported"):
        convert(tmp_path / "r50_1x_sk1", "simclr", tmp_path / "out")


@pytest.mark.parametrize("groups", [1, 3])
def test_deepcluster_v2_has_several_groups_of_prototypes(tmp_path: Path, groups: int) -> None:
    """``main_deepclusterv2.py`` of facebookresearch/swav: ``MultiPrototypes`` of the list ``nmb_prototypes``."""
    net = network(narrow([1, 1, 1, 1], 0.125))
    head = byol_mlp(net.module.num_features, 32, 16)
    prototypes = [torch.randn(30, 16) for _ in range(groups)]
    state = net.state | under(head.state_dict(), "projection_head.")
    state |= {f"prototypes.prototypes{n}.weight": weight for n, weight in enumerate(prototypes)}
    torch.save({"epoch": 1, "state_dict": under(state, "module."), "optimizer": {}}, tmp_path / "d.pth.tar")
    result = convert(tmp_path / "d.pth.tar", "swav", tmp_path / "out", method="deepclusterv2")
    assert result.config.method == "deepclusterv2"
    assert result.left_out == tuple(f"prototypes.prototypes{n}.weight" for n in range(1, groups))
    embedder = zoo.load(tmp_path / "out", device="cpu")
    assert same(embedder, net.module)
    assert torch.equal(embedder.heads.prototypes[0].weight, prototypes[0])


@pytest.mark.parametrize("names", ["torchvision", "timm", "detectron2"])
@pytest.mark.parametrize("prefix", ["module.pre.", ""])
def test_any_state_dict_under_a_prefix(tmp_path: Path, names: str, prefix: str) -> None:
    from zoo.models.key_mapping import torchvision_to_detectron2, torchvision_to_resnetv2

    net = network(narrow([2, 1, 1, 1]))
    rename = {"torchvision": dict, "timm": torchvision_to_resnetv2, "detectron2": torchvision_to_detectron2}[names]
    state = under(rename(net.state | {"fc.weight": torch.randn(5, 256), "fc.bias": torch.randn(5)}), prefix)
    torch.save({"model": state | {"module.act.alpha": torch.ones(1)}, "lr": 0.1}, tmp_path / "x.pth")
    result = convert(tmp_path / "x.pth", "torch", tmp_path / "a", prefix=prefix, licence="MIT")
    assert result.left_out == ("module.act.alpha",)
    assert result.config.licence == "MIT"
    embedder = zoo.load(tmp_path / "a", device="cpu")
    assert same(embedder, net.module)
    assert embedder.heads.classifier[0].out_features == 5
    convert(tmp_path / "x.pth", "torch", tmp_path / "b")  # finds the prefix itself
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_prefix_that_is_not_there_or_not_the_only_one(tmp_path: Path) -> None:
    net = network(narrow([1, 1, 1, 1]))
    torch.save(under(net.state, "student.") | under(net.state, "teacher."), tmp_path / "two.pth")
    torch.save({"w": torch.ones(2)}, tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"which network.*--prefix 'student\.' or 'teacher\.'"):
        convert(tmp_path / "two.pth", "torch", tmp_path / "m")
    with pytest.raises(UserError, match=r"no ResNet under 'module\.'.*'student\.'"):
        convert(tmp_path / "two.pth", "torch", tmp_path / "m", prefix="module.")
    with pytest.raises(UserError, match=r"its keys \(w, \.\.\.\) are not"):
        convert(tmp_path / "none.pth", "torch", tmp_path / "m")
    wide = {k: torch.zeros(64, 64, 3, 3) if k == "layer1.0.conv2.weight" else v for k, v in net.state.items()}
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(UserError, match="a 3x3 convolution of 64 inputs after 8 channels"):
        convert(tmp_path / "wide.pth", "torch", tmp_path / "m")
    assert not (tmp_path / "m").exists()


# ---------------------------------------------------------------- hostile files


class Payload:
    """Creates a folder when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def evil(path: Path, form: str, marker: Path) -> Path:
    content = {"experiment_state": Payload(marker), "state_dict": {"module.conv1.weight": Payload(marker)}}
    if form == "plain":
        path.write_bytes(pickle.dumps(content, protocol=2))
    elif form in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    else:  # what torch.save wrote before 0.1.10
        with tarfile.open(path, "w") as archive:
            for name, values in {"storages": [0, []], "tensors": [0], "pickle": [content]}.items():
                data = b"".join(pickle.dumps(value, protocol=2) for value in values)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", ["plain", "zip", "legacy", "tar"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_reader_runs_what_a_file_holds(tmp_path: Path, kind: str, form: str) -> None:
    marker = tmp_path / "ran"
    file = evil(tmp_path / "evil.pth.tar", form, marker)
    with pytest.raises(UserError, match=r"evil\.pth\.tar"):
        convert(file, kind, tmp_path / "out")
    assert not marker.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth.tar"]


@pytest.mark.parametrize("form", ["plain", "zip", "legacy", "tar"])
def test_the_payloads_are_real(tmp_path: Path, form: str) -> None:
    file = evil(tmp_path / "evil.pth.tar", form, tmp_path / "ran")
    try:
        torch.load(file, weights_only=False)
    except Exception as after:  # it ran; what stands after it in the file may not be readable
        print(after)
    assert (tmp_path / "ran").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_bundle_is_a_users_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    with zipfile.ZipFile(DATA / "simclr_narrow.zip") as archive:
        index = bytearray(next(archive.read(n) for n in archive.namelist() if n.endswith(".index")))
    for _ in range(data.draw(st.integers(1, 3))):
        index[data.draw(st.integers(0, len(index) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(index)) | st.just(len(index)))
    (folder / "m.index").write_bytes(index[:cut])
    (folder / "m.data-00000-of-00001").write_bytes(bytes(1000))
    with pytest.raises(UserError, match="not a TensorFlow checkpoint"):
        read_bundle(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_empty_and_wrong_files(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("<html>404</html>")
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "other.pth")
    for name in ("missing", "empty", "text", "other.pth"):
        with pytest.raises(UserError, match=name.partition(".")[0]):
            convert(tmp_path / name, kind, tmp_path / "out")


def test_a_method_without_a_target_network_says_so(tmp_path: Path) -> None:
    for kind in ("simsiam", "swav", "simclr", "torch"):
        with pytest.raises(UserError, match="no target network"):
            convert(tmp_path / "any", kind, tmp_path / "out", which="target")
