"""Embedders travel: pickles, copies, and the workers of a data loader under every start method."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import zoo
from zoo.errors import UserError
from zoo.hub.weights import BUNDLED
from zoo.inference.embedder import open_torch
from zoo.inference.images import ImageTransform

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))[:3]


@pytest.fixture(scope="module", params=["torch", "onnx", "openvino"])
def embedder(request: pytest.FixtureRequest) -> zoo.Embedder:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="pip install 'siamese-zoo[openvino]'")
    return zoo.load(device="cpu", backend=request.param)


class Photos(Dataset):
    """A data set whose items need all three things that a worker may be given."""

    def __init__(self, embedder: zoo.Embedder) -> None:
        self.embedder, self.transform = embedder, embedder.transform
        self.outputs = zoo.Outputs(crops="ten")

    def __len__(self) -> int:
        return len(PHOTOS)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, np.ndarray]:
        assert self.outputs.crop_count == 10
        return self.transform(PHOTOS[index]), self.embedder(PHOTOS[index])[0]


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_data_loaders_take_embedder_and_transform(embedder: zoo.Embedder, method: str) -> None:
    expected = embedder(PHOTOS)  # and its threads run, which a forked process does not inherit
    loader = DataLoader(Photos(embedder), 1, num_workers=1, multiprocessing_context=method, timeout=120)
    pixels, vectors = zip(*loader, strict=True)
    np.testing.assert_allclose(torch.cat(vectors).numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat(pixels), torch.stack([embedder.transform(path) for path in PHOTOS]))


def test_a_pickle_is_a_recipe_and_gives_the_same_vectors(embedder: zoo.Embedder) -> None:
    embedder = copy.copy(embedder)
    embedder.normalize = True  # a setting that was changed after loading
    data = pickle.dumps(embedder)
    assert len(data) < 4096
    again = pickle.loads(data)
    np.testing.assert_array_equal(again(PHOTOS), embedder(PHOTOS))
    assert again.identity() == embedder.identity()
    assert pickle.dumps(again) == data  # it can be sent on


def test_a_copy_has_its_own_network(embedder: zoo.Embedder) -> None:
    expected = embedder(PHOTOS)
    copied = copy.deepcopy(embedder)
    np.testing.assert_array_equal(copied(PHOTOS), expected)
    assert pickle.dumps(copied) == pickle.dumps(embedder)
    if embedder.engine.backend == "torch":
        with torch.no_grad():
            copied.model.get_parameter("conv1.weight").zero_()
        np.testing.assert_array_equal(embedder(PHOTOS), expected)


def test_the_transform_alone_is_small_and_complete(embedder: zoo.Embedder) -> None:
    data = pickle.dumps(embedder.transform)
    assert len(data) < 1024
    transform = pickle.loads(data)
    assert isinstance(transform, ImageTransform)
    torch.testing.assert_close(transform(PHOTOS[0]), embedder.transform(PHOTOS[0]))


def test_outputs_pickle_and_copy() -> None:
    outputs = zoo.Outputs(layers=("layer3",), heads=("logits",), tiles=(2, 3))
    assert pickle.loads(pickle.dumps(outputs)) == copy.deepcopy(outputs) == outputs


def test_paths_are_absolute_and_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (next(BUNDLED.glob(f"{name}*.safetensors")) for name in ("simclr", "byol"))
    shutil.copy(first, tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(zoo.load("mine.safetensors", device="cpu"))
    monkeypatch.chdir("/")
    assert pickle.loads(data).dim == 512
    shutil.copy(second, tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match="has other weights"):
        pickle.loads(data)
    (tmp_path / "mine.safetensors").unlink()
    with pytest.raises(UserError, match="no weights at"):
        pickle.loads(data)


def test_changed_weights_are_never_lost_in_silence() -> None:
    for change in (
        lambda model: torch.nn.init.zeros_(model.conv1.weight),
        lambda model: model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()}),
        lambda model: model.train()(torch.zeros(2, 3, 40, 40)),  # running statistics
        lambda model: setattr(model, "conv1", torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False)),
    ):
        embedder = zoo.load(device="cpu")
        embedder(PHOTOS[0])
        pickle.dumps(embedder)
        change(embedder.model)
        with pytest.raises(UserError, match="was changed since it was opened"):
            pickle.dumps(embedder)
        assert copy.deepcopy(embedder).dim == 512


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_heads_travel_along(backend: str) -> None:
    folder = Path(__file__).parents[2] / "compat" / "v0_2" / "byol_r14"
    embedder = zoo.load(folder, device="cpu", backend=backend, outputs=zoo.Outputs(heads=("projection",)))
    assert embedder.heads is not None
    expected = embedder.outputs(PHOTOS)
    for made in (pickle.loads(pickle.dumps(embedder)), copy.deepcopy(embedder)):
        found = made.outputs(PHOTOS)
        np.testing.assert_array_equal(found["projection"], expected["projection"])
    torch.nn.init.zeros_(embedder.heads.projector[0].weight)
    with pytest.raises(UserError, match="was changed"):
        pickle.dumps(embedder)


def test_a_network_made_in_memory_says_what_to_do() -> None:
    made = zoo.load("byol_r18", pretrained=False, device="cpu")
    assert pickle.loads(pickle.dumps(made)).identity() == made.identity()  # random weights of seed 0 have a name
    with pytest.raises(UserError, match="made of a network in memory"):
        pickle.dumps(open_torch(made.model, made.preprocessing, {}, device="cpu"))


def test_a_plain_fork_does_not_wait_for_threads_that_are_not_there() -> None:
    """torch's threads run before the fork, as in a program that has embedded something already."""
    script = """
import multiprocessing, sys, torch, zoo
torch.set_num_threads(2)
embedder = zoo.load(device="cpu", backend="torch")
first = embedder(sys.argv[1:])
torch.ones(4000, 4000).mul(2).sum(); torch.ones(800, 800) @ torch.ones(800, 800)
def work(queue): queue.put(embedder(sys.argv[1:]))
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=work, args=(queue,))
process.start()
second = queue.get(timeout=60)
process.join()
assert abs(first - second).max() < 1e-4
"""
    subprocess.run([sys.executable, "-c", script, *map(str, PHOTOS)], check=True, timeout=120)
