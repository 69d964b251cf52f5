"""Small files that claim much, refer in circles or point elsewhere, for every reader of files that are not trusted."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

# ---------------------------------------------------------------- an assembler of pickles


def const(value: object) -> bytes:
    """Opcodes that push a plain value."""
    return pickle.dumps(value, 3)[2:-1]


def name(module: str, what: str) -> bytes:
    return f"c{module}\n{what}\n".encode()


def call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def build(target: bytes, state: bytes) -> bytes:
    return target + state + b"b"


def values(*parts: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(parts) + b"t"


def whole(value: bytes, key: str = "experiment_state") -> bytes:
    return b"\x80\x04}" + const(key) + value + b"s."


DTYPE = name("numpy", "dtype")
NEW_ARRAY = call(
    name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), const((0,)), const(b"b")
)  # fmt: skip


def dtype(code: str, state: object = (3, "<", None, None, None, -1, -1, 0)) -> bytes:
    return build(call(DTYPE, const(code), const(False), const(True)), const(state))


def array(shape: tuple[int, ...], code: bytes, data: bytes) -> bytes:
    return build(NEW_ARRAY, values(const(1), const(shape), code, const(False), data))


# Before the reader had records of its own, BUILD cleared the flags that say that the array holds objects, and these
# bytes became a pointer.
POINTERS = array((1,), dtype("O8", (3, "|", None, None, None, -1, -1, 0)), const(b"AAAAAAAA"))
FACTORY = name("dill._dill", "_create_namedtuple")


def crashes() -> dict[str, bytes]:
    """Four ways that made Python follow the pointer."""
    return {
        "dict": whole(call(name("builtins", "dict"), POINTERS)),
        "ndarray": whole(call(name("numpy", "ndarray"), POINTERS)),
        "encode": whole(call(name("_codecs", "encode"), const("x"), POINTERS)),
        "namedtuple": whole(build(call(FACTORY, const("N"), POINTERS, const("m")), POINTERS)),
    }


def shared(levels: int = 60) -> bytes:
    """``x = {"a": x, "b": x}``, 60 times: 2^60 paths through it."""
    tree: dict[str, object] = {"w": 1}
    for _ in range(levels):
        tree = {"a": tree, "b": tree}
    return pickle.dumps(tree, 4)


def itself() -> bytes:
    tree: dict[str, object] = {}
    tree["self"] = tree
    return pickle.dumps(tree, 4)


def deep(levels: int) -> bytes:
    return b"\x80\x04" + b"".join(b"}" + const("k") for _ in range(levels)) + b"N" + b"s" * levels + b"."


def colliding(count: int) -> bytes:
    """Keys of one hash: multiples of 2^61 - 1."""
    keys = b"".join(const(n * (2**61 - 1)) + b"N" for n in range(1, count))
    return b"\x80\x04}(" + keys + b"u."


def _float(shape: tuple[int, ...], data: bytes) -> bytes:
    return array(shape, dtype("f4"), data)


def pickles() -> dict[str, bytes]:
    """For ``--from deepmind-byol`` and ``--from torch`` of a ``.pkl``."""
    memo = lambda n: b"r" + struct.pack("<I", n)  # noqa: E731
    long_text = b"X\x00\x00\x10\x00" + b"y" * (1 << 20)
    kept, again = memo(10**6), b"j" + struct.pack("<I", 10**6)
    encode = call(name("_codecs", "encode"), again, const("latin1"))
    copy = call(name("collections", "OrderedDict"), again)
    huge_state = values(const(1), const((2**40,)), dtype("f4"), const(False), const(bytes(4)))
    return {
        **{f"crash_{way}": data for way, data in crashes().items()},
        "memo_index": b"\x80\x02N" + memo(2**31 - 1) + b".",
        "memo_text_index": b"N" + b"p99999999999\n" + b"g99999999999\n.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        "bytes_4": b"\x80\x04B" + struct.pack("<I", 2**32 - 1) + b"x.",
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
        "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
        "long": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        "negative_long": b"\x80\x04\x8b" + struct.pack("<i", -1) + b"x.",
        "digits": b"L" + b"9" * 200_000 + b"L\n.",
        "shared": shared(),
        "itself": itself(),
        "deep": deep(20_000),
        "deep_tuple": b"\x80\x04N" + b"\x85" * 50_000 + b".",
        "colliding": colliding(60_000),
        "elements": whole(_float((10**15,), const(bytes(4)))),
        "no_elements": whole(_float((0, 10**15, 10**15), const(b""))),
        "negative": whole(_float((-1,), const(bytes(4)))),
        "dimensions": whole(_float((1,) * 300, const(bytes(4)))),
        "objects": pickle.dumps({"model": {"conv1.weight": np.array([None])}}, 2),
        "texts": pickle.dumps({"model": {"conv1.weight": np.array(["x"])}}, 2),
        "records": pickle.dumps({"model": {"w": np.zeros(2, [("a", "f4"), ("b", "O")])}}, 2),
        "unfinished": whole(NEW_ARRAY),
        "twice": whole(build(_float((1,), const(bytes(4))), huge_state)),
        "many_encodings": b"\x80\x04" + long_text + kept + b"0](" + encode * 30_000 + b"e.",
        "many_copies": b"\x80\x04" + const([(n, None) for n in range(20_000)]) + kept + b"0](" + copy * 1000 + b"e.",
        "many_steps": b"\x80\x04](" + b"}" * 1_000_001 + b"e.",
        "set_array": whole(build(name("numpy", "ndarray"), const({"__array_finalize__": 1}))),
        "set_dtype": whole(build(DTYPE, const({"type": 1}))),
        "set_list": whole(build(const([1]), const({"a": 1}))),
        "set_record": whole(build(call(FACTORY, const("N"), const(("a",)), const("m")), const({"__new__": 1}))),
        "new_array": b"\x80\x04" + name("numpy", "ndarray") + const((2**40,)) + b"\x81.",
        "items_of_array": whole(NEW_ARRAY + const("a") + const(1) + b"s"),
        "append_to_array": whole(NEW_ARRAY + const(1) + b"a"),
        "fields_text": whole(call(FACTORY, const("N"), const("a b"), const("m"))),
        "extension": b"\x80\x02\x82\x01.",
        "instance": b"(iposix\nsystem\n.",
        "system": whole(call(name("posix", "system"), const("true"))),
        "getattr": whole(call(name("builtins", "getattr"), NEW_ARRAY, const("tofile"))),
        "attribute": b"\x80\x04" + const("numpy") + const("ndarray.tofile") + b"\x93.",
        "persistent": b"Pid\n.",
        "html": b"<!DOCTYPE html><html>404</html>",
        "stop": b".",
        "pop": b"\x80\x040000.",
        "empty": b"",
    }  # fmt: skip


# ---------------------------------------------------------------- torch


def zipped(data: bytes, records: dict[str, bytes] | None = None, *, deflate: bool = False, **more: bytes) -> bytes:
    """A zip archive as ``torch.save`` writes it, around the pickle ``data``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3\n")
        for key, content in (records or {}).items():
            archive.writestr(f"archive/data/{key}", content)
        for key, content in more.items():
            archive.writestr(f"archive/{key}", content)
    return file.getvalue()


def tensor(
    key: str, numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], kind: str = "Float"
) -> bytes:
    storage = values(const("storage"), name("torch", f"{kind}Storage"), const(key), const("cpu"), const(numel)) + b"Q"
    hooks = call(name("collections", "OrderedDict"))
    parts = (const(offset), const(size), const(stride), const(False), hooks)
    return call(name("torch._utils", "_rebuild_tensor_v2"), storage, *parts)


def state(value: bytes) -> bytes:
    return b"\x80\x02}" + const("state_dict") + b"}" + const("module.conv1.weight") + value + b"ss."


def torch_files() -> dict[str, bytes]:
    """For ``--from simsiam``, ``moco``, ``swav`` and ``torch``, and for training checkpoints."""
    four, ordered = {"0": bytes(16)}, name("collections", "OrderedDict")
    good = zipped(state(tensor("0", 4, 0, (4,), (1,))), four)
    big = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(20 << 20)}}, big)  # packed again, 80 MB become 80 kB
    with zipfile.ZipFile(big) as archive:
        packed = zipped(
            archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl"))),
            {"0": archive.read(next(n for n in archive.namelist() if n.endswith("data/0")))},
            deflate=True,
        )
    legacy = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(4)}}, legacy, _use_new_zipfile_serialization=False)
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        for key in ("archive/data.pkl", "archive/version", "archive/data/0", "archive/DATA.pkl"):
            archive.writestr(key, good)
    numel = b"K\x04N"  # 4, and no view
    assert numel in legacy.getvalue()
    return {
        "stride_0": zipped(state(tensor("0", 4, 0, (2**40, 3), (0, 1))), four),
        "stride_huge": zipped(state(tensor("0", 4, 0, (2, 2), (2**40, 1))), four),
        "offset": zipped(state(tensor("0", 4, 2**40, (1,), (1,))), four),
        "offset_negative": zipped(state(tensor("0", 4, -1, (1,), (1,))), four),
        "size_negative": zipped(state(tensor("0", 4, 0, (-4,), (1,))), four),
        "storage": zipped(state(tensor("0", 2**40, 0, (4,), (1,))), four),
        "storage_missing": zipped(state(tensor("1", 4, 0, (4,), (1,))), four),
        "storage_kind": zipped(state(tensor("0", 4, 0, (4,), (1,), "Double")), four),
        "deflated": packed,
        "deflated_pickle": zipped(b"\x80\x02](" + b"N" * 70_000_000 + b"e.", deflate=True),
        "memo_index": zipped(b"\x80\x02Nr\xff\xff\xff\x7f.", four),
        "deep": zipped(deep(20_000)),
        "many_steps": zipped(b"\x80\x02](" + b"}" * 1_000_001 + b"e."),
        "colliding": zipped(colliding(60_000)),
        "new_tensor": zipped(state(call(name("torch", "Tensor"), const(2**40)))),
        "new_float_tensor": zipped(state(call(name("torch", "FloatTensor"), const(2**40)))),
        "bytearray": zipped(state(call(name("builtins", "bytearray"), const(2**36)))),
        "size_of": zipped(state(call(name("torch", "Size"), const(2**40)))),
        "meta": zipped(state(call(name("torch._utils", "_rebuild_meta_tensor_no_storage"), const(1)))),
        "odict_items": zipped(b"\x80\x02" + build(call(ordered), const({"items": 1})) + b"."),
        "duplicates": twice.getvalue(),
        "script": zipped(b"N.", four, **{"constants.pkl": b"N."}),
        "commented": good[:-2] + b"\x05\x00abcde",
        "moved_directory": good[:40] + b"x" * 64 + good[40:],
        "truncated": good[: len(good) // 2],
        "legacy_storage": legacy.getvalue().replace(numel, b"J\xff\xff\xff\x7fN"),
        "legacy_truncated": legacy.getvalue()[:-8],
        "legacy_source": legacy.getvalue().replace(b"storage", b"modules"),
        "html": b"<!DOCTYPE html><html>404</html>",
        "empty": b"",
    }  # fmt: skip


# ---------------------------------------------------------------- arrays


def npy(shape: tuple[int, ...], data: bytes, code: str = "|u1") -> bytes:
    header = repr({"descr": code, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(**arrays: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, data in arrays.items():
            archive.writestr(f"{key}.npy", data)
    return file.getvalue()


def array_files(marker: Path) -> dict[str, bytes]:
    """For data sets of small images; ``marker`` would be created by a pickle in them."""
    run = b"\x80\x04" + call(name("posix", "mkdir"), const(str(marker))) + b"."
    labels = npy((2,), bytes(16), "<i8")
    images = npy((2, 4, 4, 3), bytes(96))
    return {
        "shape.npy": npy((10**6, 1000, 1000, 3), bytes(96)),
        "objects.npy": npy((2,), run, "|O"),
        "header.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
        "negative.npy": npy((-2, 4, 4, 3), bytes(96)),
        "pickle.npy": run,
        "deep.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 9000,
        "shape.npz": npz(images=npy((10**6, 1000, 1000, 3), bytes(96)), labels=labels),
        "objects.npz": npz(images=npy((2,), run, "|O"), labels=labels),
        "object_labels.npz": npz(images=images, labels=npy((2,), run, "|O")),
        "label_shape.npz": npz(images=images, labels=npy((2**40,), bytes(16), "<i8")),
        "label_text.npz": npz(images=images, labels=npy((2,), bytes(16), f"<U{2**30}")),
        "expands.npz": npz(images=npy((100, 1000, 700, 3), bytes(210_000_000)), labels=labels),
        "names.npz": npz(**{"x\n\x1b[31m": images}),
        "truncated.npz": npz(images=images, labels=labels)[:100],
    }


# ---------------------------------------------------------------- safetensors


def safetensors(header: object, data: bytes = b"", claimed: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def safetensors_files() -> dict[str, bytes]:
    def one(shape: list[int], offsets: list[int], kind: str = "F32") -> dict[str, object]:
        return {"w": {"dtype": kind, "shape": shape, "data_offsets": offsets}}

    four = bytes(16)
    pair = {"a": one([4], [0, 16])["w"], "b": one([4], [0, 16])["w"]}
    return {
        "header": safetensors(b"{}", claimed=2**62),
        "large_header": safetensors(b"{" + b" " * 1_000_000, claimed=99_000_000),
        "overlap": safetensors(pair, four),
        "hole": safetensors({"a": one([1], [0, 4])["w"], "b": one([1], [12, 16])["w"]}, four),
        "overflow": safetensors(one([2**62, 4], [0, 16]), four),
        "shape": safetensors(one([10**15], [0, 16]), four),
        "reversed": safetensors(one([4], [16, 0]), four),
        "past_the_end": safetensors(one([8], [0, 32]), four),
        "duplicates": safetensors(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},' * 2 + b'"x":1}', four),
        "deep": safetensors(b'{"w":' + b"[" * 100_000, four),
        "no_object": safetensors(b"[1, 2]"),
        "not_text": safetensors(b"\xff\xfe" * 20),
        "empty": b"",
    }


# ---------------------------------------------------------------- mutations


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """A few bytes changed, cut, doubled or replaced by numbers that are large somewhere."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        if not out:
            break
        at = int(random.integers(len(out)))
        kind = int(random.integers(6))
        if kind == 0:
            out[at] = int(random.integers(256))
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            out[at:at] = out[at : at + int(random.integers(64))]
        elif kind == 3:
            del out[at : at + int(random.integers(1, 64))]
        elif kind == 4:
            large = [b"\xff" * 4, b"\xff\xff\xff\x7f", b"\xff" * 8, struct.pack("<Q", 2**40), bytes(8)]
            part = large[int(random.integers(len(large)))]
            out[at : at + len(part)] = part
        else:
            other = int(random.integers(len(out)))
            size = int(random.integers(1, 32))
            out[at : at + size] = out[other : other + size]
    return bytes(out)


def mutations(data: bytes, seed: int) -> Iterator[bytes]:
    random = np.random.default_rng(seed)
    while True:
        yield mutated(data, random)
