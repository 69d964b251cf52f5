"""TF's padding in ONNX: no padding node, and DeepMind's numbers at every size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from official_files import narrow, network
from onnx import helper

import zoo
from zoo.convert.convert import convert
from zoo.export import export
from zoo.export.export import Variant
from zoo.export.onnx_graph import trace
from zoo.transforms.preprocess import Preprocessing

GOLDENS = Path(__file__).parents[2] / "goldens"


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """At any size: the graph's input is given free height and width, which none of its nodes depends on."""
    import onnxruntime

    model = onnx.ModelProto.FromString(model.SerializeToString())
    del model.graph.value_info[:]
    for place in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = f"free{place}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {model.graph.input[0].name: x})[0]


def told(model: onnx.ModelProto) -> Counter[str]:
    """Which nodes pad as TF does."""
    mark = helper.make_attribute("auto_pad", "SAME_UPPER")
    return Counter(node.op_type for node in model.graph.node if mark in list(node.attribute))


@pytest.mark.slow  # tracing takes seconds; the fast test below traces DeepMind's padding
@pytest.mark.parametrize("padding", ["same", "same-pool", "symmetric"])
def test_the_graph_is_the_network_at_even_odd_and_mixed_sizes(padding: str) -> None:
    net = network(narrow([1, 1, 2, 1], padding=padding)).module
    core = trace(net, 64)
    assert operators(core) == operators(trace(network(narrow([1, 1, 2, 1])).module, 64))  # so it runs as fast
    assert told(core) == {"same": {"Conv": 4, "MaxPool": 1}, "same-pool": {"MaxPool": 1}, "symmetric": {}}[padding]
    for size in ((64, 64), (65, 65), (61, 90), (224, 111)):
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            reference = net(x).numpy()
        assert np.abs(run(core, x.numpy()) - reference).max() / np.abs(reference).max() < 2e-6, size


def test_deepmind_s_embeddings_at_every_size_without_padding_nodes(tmp_path: Path) -> None:
    convert(GOLDENS / "byol_r14_free.final.pkl", "deepmind-byol", tmp_path / "m", preprocessing=Preprocessing(65, 65))
    embedder = zoo.load(tmp_path / "m", device="cpu")
    core = export.trace_core(embedder)
    assert "Pad" not in operators(core)
    assert told(core) == {"Conv": 4, "MaxPool": 1}
    data = np.load(GOLDENS / "byol_r14_free.npz")
    keys = [k for k in data if k.startswith("eval_image_")]
    assert len(keys) > 1
    for key in keys:
        reference = data[key.replace("image", "embedding")]
        images = (data[key] - embedder.preprocessing.mean) / np.array(embedder.preprocessing.std)
        ours = run(core, images.transpose(0, 3, 1, 2).astype(np.float32))
        assert np.abs(ours - reference).max() / np.abs(reference).max() < 1e-4, key
    done = export.export_onnx(embedder, tmp_path / "m.onnx", Variant("crop"), core=core)  # through its gate
    assert done.parity < 1e-5
    about = {p.key: p.value for p in onnx.load(done.path).metadata_props}
    assert about["licence"] == "unknown"
    assert about["source"] == "unknown"
