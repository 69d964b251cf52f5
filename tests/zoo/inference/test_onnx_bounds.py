"""Graphs that compute tensors far larger than their file are refused before a runtime opens them; networks are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")

from zoo.errors import UserError  # noqa: E402
from zoo.inference.onnx_bounds import require_bounded  # noqa: E402
from zoo.inference.onnx_wire import FIELDS  # noqa: E402

# Every body gets x, float[n, 3, 8, 8], and ends in `m`, float[n, 3] or less, to which the embedding adds the mean of x.
HUGE, SIDE = 1 << 40, 1 << 20
OUTER = "a = ConstantOfShape <value = float[1] {1}> (long)\n b = Transpose (a)\n"
BODIES = {
    "ConstantOfShape": f"int64[2] s = {{{HUGE}, 3}}|c = ConstantOfShape (s)\n m = ReduceMax (c, zero)",
    "ConstantOfShape_of_gigabytes": "int64[2] s = {1000000000, 3}|c = ConstantOfShape (s)\n m = ReduceMax (c, zero)",
    "Expand": f"int64[4] s = {{1, 3, {SIDE}, {SIDE}}}|p = ReduceMax (x, sides)\n c = Expand (p, s)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "Tile": f"int64[4] s = {{1, 1, {SIDE}, {SIDE}}}|c = Tile (x, s)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "Tile_the_batch": f"int64[4] s = {{{SIDE}, 1, 1, 1}}|c = Tile (x, s)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "Range": f"int64 s = {{0}}, int64 e = {{{HUGE}}}, int64 d = {{1}}|c = Range (s, e, d)\n r = Cast <to = 1> (c)\n m = ReduceMax (r, zero)",
    "Resize_sizes": f"int64[4] s = {{1, 3, {SIDE}, {SIDE}}}|c = Resize (x, , , s)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "Resize_scales": "float[4] s = {1, 1, 100000, 100000}|c = Resize (x, , s)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "Pad": f"int64[8] s = {{0, 0, {SIDE}, {SIDE}, 0, 0, 0, 0}}|c = Pad (x, s)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "Pad_axes": f"int64[4] s = {{{SIDE}, {SIDE}, 0, 0}}|c = Pad (x, s, , sides)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "Conv_pads": "float[1,3,1,1] w = {1, 1, 1}|c = Conv <pads = [50000, 50000, 50000, 50000]> (x, w)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "MaxPool_pads": "|c = MaxPool <kernel_shape = [60000, 60000], pads = [59999, 59999, 59999, 59999]> (x)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "outer_Add": f"int64[2] long = {{1000000, 1}}|{OUTER} c = Add (a, b)\n m = ReduceMax (c, zero)",
    "outer_MatMul": f"int64[2] long = {{1000000, 1}}|{OUTER} c = MatMul (a, b)\n m = ReduceMax (c, zero)",
    "outer_Gemm": f"int64[2] long = {{1000000, 1}}|{OUTER} c = Gemm (a, b)\n m = ReduceMax (c, zero)",
    "outer_Where": f"int64[2] long = {{1000000, 1}}|{OUTER} g = Greater (a, b)\n c = Where (g, a, b)\n m = ReduceMax (c, zero)",
    "Gather": f"int64[2] long = {{1000000, 1}}|{OUTER} i = Cast <to = 7> (a)\n c = Gather <axis = 1> (a, i)\n m = ReduceMax (c, zero)",
    "Concat_again_and_again": "|" + "".join(f"c{n} = Concat <axis = 2> ({', '.join([f'c{n - 1}' if n else 'x'] * 30)})\n" for n in range(6)) + "m = ReduceMax <keepdims = 0> (c5, sides)",
    "from_pixels": "int64[1] k = {1000000}|f = ReduceMax <keepdims = 0> (x)\n i = Cast <to = 7> (f)\n s = Mul (i, k)\n c = ConstantOfShape (s)\n m = ReduceMax (c, zero)",
    "from_the_batch": "int64[1] k = {90000}|b = Shape <start = 0, end = 1> (x)\n s = Mul (b, b)\n t = Mul (s, s)\n u = Mul (t, t)\n c = ConstantOfShape (u)\n m = ReduceMax (c, zero)",
    "negative_division": f"int64[1] k = {{-1}}, int64[1] two = {{2}}, int64[1] one = {{1}}, int64[1] h = {{{HUGE}}}|d = Div (k, two)\n e = Add (d, one)\n s = Mul (e, h)\n c = ConstantOfShape (s)\n m = ReduceMax (c, zero)",
    "OneHot": f"int64 d = {{{HUGE}}}, float[2] v = {{0, 1}}|i = Cast <to = 7> (x)\n c = OneHot (i, d, v)\n m = ReduceMax <keepdims = 0> (c)",
    "Einsum": 'int64[1] long = {1000000}|a = ConstantOfShape (long)\n c = Einsum <equation = "i,j->ij"> (a, a)\n m = ReduceMax (c, zero)',
    "Constant": f"|s = Constant <value_ints = [{HUGE}]> ()\n c = ConstantOfShape (s)\n m = ReduceMax (c, zero)",
    "ConvTranspose": "float[3,1,1,1] w = {1, 1, 1}|c = ConvTranspose <strides = [100000, 100000]> (x, w)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "If": "bool b = {1}|m = If (b) <then_branch = t () => (float[1] o) { o = Constant <value_floats = [1.0]> () }, else_branch = e () => (float[1] o) { o = Constant <value_floats = [1.0]> () }>",
    "Loop": f"int64 k = {{{HUGE}}}, bool b = {{1}}, float[1] z = {{0}}|m = Loop (k, b, z) <body = l (int64 i, bool c, float[1] v) => (bool d, float[1] w) {{ d = Identity (c)\n w = Add (v, v) }}>",
    "Unsqueeze_twice": "int64[2] s = {0, 0}|c = Unsqueeze (x, s)\n m = ReduceMax <keepdims = 0> (c, sides)",
    "many_that_live": "int64[1] s = {15000000}|" + "".join(f"c{n} = ConstantOfShape (s)\n" for n in range(200)) + f"l = Sum ({', '.join(f'c{n}' for n in range(200))})\n m = ReduceMax (l, zero)",
}  # fmt: skip


def model(body: str) -> Any:
    constants, _, operators = body.partition("|")
    given = ", ".join(["int64[1] zero = {0}", "int64[2] sides = {2, 3}", *([constants] if constants else [])])
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[n, 3, 8, 8] x) => (float[n, 3] embedding) <{given}> {{
            {operators}
            mean = ReduceMean <keepdims = 0> (x, sides)
            embedding = Add (mean, m) }}"""
    )


@pytest.mark.parametrize("name", BODIES)
def test_graphs_that_make_much_of_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model(BODIES[name]).SerializeToString())
    with pytest.raises(UserError) as caught:
        require_bounded(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_tensors_that_claim_more_than_they_have(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    tensor = onnx.helper.make_tensor("t", 1, [2, 3], [1.0] * 6)
    for change in ("dims", "negative", "raw", "cut", "sparse", "functions", "inner", "listed", "sides"):
        made = model("|m = Identity (zero)")
        claimed = onnx.TensorProto()
        claimed.CopyFrom(tensor)
        if change == "dims":
            claimed.dims[0] = HUGE
        elif change == "negative":
            claimed.dims[0] = -2
        elif change == "raw":
            claimed.ClearField("float_data")
            claimed.dims[0], claimed.raw_data = HUGE, bytes(24)
        elif change == "cut":
            claimed.ClearField("float_data")
            claimed.raw_data = bytes(20)
        elif change == "listed":
            made.graph.node[0].attribute.append(onnx.helper.make_attribute("value_ints", [HUGE] * 100_000))
        elif change == "sides":
            claimed.dims.extend([1] * 100_000)
        elif change == "sparse":
            made.graph.sparse_initializer.add().dims.extend([HUGE])
        elif change == "functions":
            made.functions.add().name = "f"
        elif change == "inner":
            claimed.dims[1] = HUGE
            made.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], value=claimed))
        if change in ("dims", "negative", "raw", "cut", "sides"):
            made.graph.initializer.append(claimed)
        path.write_bytes(made.SerializeToString())
        with pytest.raises(UserError, match="not an ONNX file that can be read"):
            require_bounded(path)


@pytest.mark.parametrize(
    "body",
    [
        "|m = Identity (zero_f)",
        "int64[3] ends = {0, 2, 3}|a = Shape <start = 2, end = 3> (x)\n b = Unsqueeze (a, ends)\n c = Cast <to = 1> (b)\n m = ReduceMax <keepdims = 0> (c, sides)",
        "|c = Pad (x, pads)\n m = ReduceMax <keepdims = 0> (c, sides)",
        "float[4] s = {1, 1, 4, 4}|c = Resize (x, , s)\n m = ReduceMax <keepdims = 0> (c, sides)",
        "|a, b, c = Split <axis = 1, num_outputs = 3> (x)\n d = Concat <axis = 1> (c, b, a)\n m = ReduceMax <keepdims = 0> (d, sides)",
        "int64[3] s = {0, 3, -1}|c = Reshape (x, s)\n d = Transpose <perm = [0, 2, 1]> (c)\n e = MatMul (c, d)\n f = Softmax (e)\n m = ReduceMax <keepdims = 0> (f, two)",
        "float[8,3,3,3] w = {" + ", ".join(["1"] * 216) + '}|c = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)\n g = GlobalAveragePool (c)\n f = Flatten (g)\n m = ReduceMax <keepdims = 1> (f, one)',
    ],
)  # fmt: skip
def test_what_networks_do_is_accepted(body: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    constants, bar, operators = body.partition("|")
    more = "float[1] zero_f = {0}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, int64[1] one = {1}, int64[1] two = {2}"
    made = model(f"{more}{', ' if constants else ''}{constants}{bar}{operators}")
    onnx.checker.check_model(made)
    onnx.shape_inference.infer_shapes(made, strict_mode=True)
    path.write_bytes(made.SerializeToString())
    require_bounded(path)


def test_the_numbers_of_the_fields_are_those_of_the_onnx_package() -> None:
    for message, fields in FIELDS.items():
        outer, *inner = message.split(".")
        descriptor = getattr(onnx, outer).DESCRIPTOR
        for name in inner:
            descriptor = descriptor.nested_types_by_name[name]
        known = descriptor.fields_by_name
        assert {name: known[name].number for name in fields} == fields


def test_a_name_that_is_no_text_is_one_line_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Found by ``fuzz_readers.py``: ONNX Runtime printed five lines and started again without the GPU."""
    pytest.importorskip("onnxruntime")
    from zoo.inference.onnx_backend import OnnxEngine

    made = model("float[1] most = {0}|m = Relu (most)")
    made.graph.node[0].name = "a_node_of_a_test"
    made.graph.node[0].attribute.append(onnx.helper.make_attribute("unknown", 1))
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString().replace(b"a_node_of_a_test", b"\xff" * 16))
    with pytest.raises(UserError, match="not an ONNX file that runs here"):
        OnnxEngine(path)
    assert capfd.readouterr() == ("", "")
