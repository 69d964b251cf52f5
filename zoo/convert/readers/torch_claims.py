"""Compare what a file of ``torch.save`` claims with what it holds, before torch reads it.

``torch.load(weights_only=True)`` runs no code, but it allocates what a file claims: storages, strides that repeat one
number, compressed members. It also calls constructors such as ``torch.Tensor`` with the file's arguments. Here the
pickle is read once without any of that, and torch gets only files that passed.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from zoo.convert.readers.pickle_machine import Name, PickleMachine, pairs, refuse

_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save's legacy form
_MAX_EXPANSION = 64 << 20  # bytes by which the members of a zip archive may exceed the file
_MAX_DIRECTORY = 32 << 20
_MAX_DIMENSIONS = 64
_BYTES_PER_STEP = 100
_END, _END_64, _LOCATOR = 22, 56, 20  # sizes of zip's end records without a comment
_STORAGES = {
    **{f"{name}Storage": 1 for name in ("Byte", "Char", "Bool", "Untyped")},
    **{f"{name}Storage": 2 for name in ("Half", "BFloat16", "Short")},
    **{f"{name}Storage": 4 for name in ("Float", "Int")},
    **{f"{name}Storage": 8 for name in ("Double", "Long", "ComplexFloat")},
    "ComplexDoubleStorage": 16,
}
_DTYPES = {  # of the elements by the storage's name; ``UntypedStorage`` holds bytes
    **{f"{name}Storage": torch.uint8 for name in ("Byte", "Untyped")},
    **{"CharStorage": torch.int8, "BoolStorage": torch.bool, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "ShortStorage": torch.int16, "FloatStorage": torch.float32},
    **{"IntStorage": torch.int32, "DoubleStorage": torch.float64, "LongStorage": torch.int64},
    **{"ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128},
}
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
_VALUES = (  # names whose calls are checked in ``call``
    *(("torch._utils", name) for name in (*_TENSORS, *_PARAMETERS)),
    *(("torch._tensor", "_rebuild_from_type_v2"), ("torch", "Tensor"), ("torch.nn.parameter", "Parameter")),
    *(("torch", "Size"), ("torch", "device"), ("_codecs", "encode")),
    *(("collections", "OrderedDict"), ("collections", "Counter")),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "complex", "bytearray")),
)


@dataclass(frozen=True, eq=False)
class StorageClaim:
    """A storage that the file names; ``size`` is in bytes."""

    itemsize: int
    size: int
    key: str
    kind: str


@dataclass(frozen=True, eq=False)
class TensorClaim:
    """A view of a storage whose place and size were compared with it; ``dtype`` is that of the elements."""

    storage: StorageClaim
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Claims(PickleMachine):
    """Reads one pickle of ``torch.save``; ``records`` has the bytes of each storage, where they are known already."""

    encoding = "bytes"  # of the texts of Python 2

    def __init__(self, file: BinaryIO, records: dict[str, int] | None) -> None:
        super().__init__(file, encoding=self.encoding)
        self.records = records
        self.storages: dict[str, StorageClaim] = {}
        self._hooks: list[object] = []

    def load(self) -> Any:
        found = super().load()
        if any(self._hooks):
            refuse("a tensor with hooks")
        return found

    def find_class(self, module: str, name: str) -> Name:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_storage = name in _STORAGES and module in ("torch", "torch.storage")
        if not (is_dtype or is_storage or (module, name) in _VALUES):
            refuse(f"{module}.{name} is not on the allow-list")
        return Name(module, name)

    def persistent_load(self, identifier: object) -> StorageClaim:
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
            refuse("an unknown kind of storage")
        kind, storage, key, _, numel, *view = identifier
        if kind not in ("storage", b"storage") or not isinstance(storage, Name) or view not in ([], [None]):
            refuse("an unknown kind of storage")
        key = key.decode("ascii") if isinstance(key, bytes) else key
        if storage.name not in _STORAGES or not isinstance(key, str) or not _is_count(numel):
            refuse("an unknown kind of storage")
        itemsize = _STORAGES[storage.name]
        claimed = StorageClaim(itemsize, itemsize * numel, key, storage.name)
        # The first mention of a storage decides its size, as in torch.
        held = self.storages.setdefault(key, claimed).size if self.records is None else self.records.get(key, 0)
        if claimed.size > held:
            refuse(f"storage {key[:40]} claims {claimed.size} bytes and has {held}")
        self.storages.setdefault(key, claimed)
        return claimed

    def call(self, name: object, args: tuple[Any, ...]) -> object:
        if not isinstance(name, Name):
            refuse(f"it calls a {type(name).__name__}")
        if name.name in _TENSORS:
            return self._tensor(name.name, *args)
        if name.name in _PARAMETERS or name.name == "Parameter":
            return self._parameter(*args)
        if name.name == "_rebuild_from_type_v2" and len(args) == 4:
            function, kind, inner, _ = args  # a tensor with attributes
            is_known = isinstance(function, Name) and function.name in (*_TENSORS, *_PARAMETERS)
            if is_known and type(inner) is tuple and str(kind) in TENSOR_CLASSES:
                return self.call(function, inner)
        if name.name in ("OrderedDict", "Counter"):
            return self._mapping(*args)
        if _is_plain(name.name, args):
            self._spend_copy(args)
            return name.name  # stands for the value, which nobody looks at
        return refuse(f"{name} is called in an unknown way")

    def set_state(self, target: object, state: object) -> None:
        # Modules store the versions of their state dicts so.
        if type(target) is not dict or type(state) is not dict or not set(state) <= {"_metadata"}:
            refuse(f"it sets the state of a {type(target).__name__}")

    def _spend_copy(self, args: tuple[object, ...]) -> None:
        for arg in args:
            if isinstance(arg, tuple | list):
                self.spend(len(arg))
            elif isinstance(arg, str):
                self.spend(len(arg) // _BYTES_PER_STEP)

    def _tensor(self, function: str, storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> TensorClaim:
        if not isinstance(storage, StorageClaim) or not (_is_shape(size) and _is_shape(stride) and _is_count(offset)):
            refuse("a tensor with an unknown shape")
        if len(size) != len(stride):
            refuse("a tensor with an unknown shape")
        dtype = _DTYPES[storage.kind]
        if more:
            grad, hooks, *rest = more
            self._hooks.append(hooks)
            if type(grad) is not bool or (hooks is not None and type(hooks) is not dict):
                refuse("a tensor with hooks")
            if function == "_rebuild_tensor_v3" and rest:
                stated = getattr(torch, rest.pop(0).name, None)
                dtype = stated if isinstance(stated, torch.dtype) else refuse("a tensor of an unknown dtype")
            if any(rest):
                refuse("a tensor with metadata")
        # Both the elements and the place of the last one are compared with the storage.
        numel = math.prod(size)
        end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if numel else offset
        if max(numel, end) * dtype.itemsize > storage.size:
            refuse(f"a tensor claims {max(numel, end) * dtype.itemsize} bytes of a storage of {storage.size}")
        return TensorClaim(storage, dtype, offset, size, stride)

    def _parameter(self, data: object, grad: object = True, hooks: object = None, *state: object) -> object:
        if not isinstance(data, TensorClaim) or type(grad) is not bool or any(state):
            refuse("an unknown kind of parameter")
        if hooks is not None and type(hooks) is not dict:
            refuse("a tensor with hooks")
        self._hooks.append(hooks)
        return data

    def _mapping(self, *args: object) -> dict[Any, object]:
        if not args:
            return {}
        if len(args) > 1 or type(args[0]) not in (list, dict):
            refuse("a mapping without pairs")
        self.spend(len(args[0]))  # type: ignore[arg-type]
        return pairs(args[0]) if type(args[0]) is list else dict(args[0])  # type: ignore[call-overload]


@dataclass(frozen=True)
class Checked:
    """What a file of ``torch.save`` holds, after its claims were compared.

    Attributes:
        tree: what the machine made of the pickle.
        root: first folder of a zip archive, with its slash; empty in the legacy form.
        places: position and bytes of each storage in a file of the legacy form.
    """

    tree: Any
    root: str
    places: Mapping[str, tuple[int, int]]


def check_claims(file: BinaryIO, machine: type[Claims] = Claims) -> Checked:
    """Read the pickles of a file of ``torch.save``, in the zip or the legacy form, and compare all claims.

    Args:
        machine: what reads the pickle; ``Claims`` refuses every name that ``torch.load(weights_only=True)`` refuses.

    Raises:
        pickle.UnpicklingError, zipfile.BadZipFile, ValueError and others: the file is damaged, or claims more than it
            holds.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_zip = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    return _check_zip(file, size, machine) if is_zip else _check_legacy(file, size, machine)


def _check_zip(file: BinaryIO, size: int, machine: type[Claims]) -> Checked:
    # Python's and torch's readers of zip must find the same directory.
    _check_end(file, size)
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if not members or len({m.filename.lower() for m in members}) < len(members):  # torch ignores the case
            refuse("members of one name in its zip archive")
        # The sum covers members that are compressed, and those that overlap.
        expanded = sum(m.file_size for m in members)
        if expanded > size + _MAX_EXPANSION:
            refuse(f"its zip archive expands from {size} bytes to {expanded}: pack it without compression")
        root = members[0].filename.partition("/")[0] + "/"
        if any(m.filename == f"{root}constants.pkl" for m in members):
            refuse("a TorchScript archive, which holds code")
        data = f"{root}data/"
        records = {m.filename.removeprefix(data): m.file_size for m in members if m.filename.startswith(data)}
        if f"{root}data.pkl" not in {m.filename for m in members}:
            refuse("a zip archive that torch did not write")
        tree = machine(io.BytesIO(archive.read(f"{root}data.pkl")), records).load()
    return Checked(tree, root, {})


def _check_end(file: BinaryIO, size: int) -> None:
    """Check that the directory lies right before the end record, where all readers of zip look for it."""
    file.seek(max(0, size - _END - _LOCATOR - _END_64))
    tail = file.read()
    end, position = tail[-_END:], size - _END
    if not end.startswith(b"PK\x05\x06") or end[-2:] != b"\0\0":
        raise zipfile.BadZipFile("its zip archive has no end, or a comment")
    length, start = int.from_bytes(end[12:16], "little"), int.from_bytes(end[16:20], "little")
    if tail[-_END - _LOCATOR :].startswith(b"PK\x06\x07") and len(tail) > _END + _LOCATOR:
        large, position = tail[: -_END - _LOCATOR], size - _END - _LOCATOR - _END_64
        length, start = int.from_bytes(large[40:48], "little"), int.from_bytes(large[48:56], "little")
    if start + length != position or length > _MAX_DIRECTORY:
        raise zipfile.BadZipFile("its zip archive has a directory in an unusual place")


def _check_legacy(file: BinaryIO, size: int, machine: type[Claims]) -> Checked:
    if Claims(file, {}).load() != _MAGIC:
        refuse("no file of torch.save")
    for _ in range(2):  # the version, facts about the machine
        Claims(file, {}).load()
    claims = machine(file, None)
    tree = claims.load()
    keys = Claims(file, {}).load()
    claimed = sum(8 + storage.size for storage in claims.storages.values())
    if not isinstance(keys, list) or claimed > size - file.tell():
        refuse(f"its storages claim {claimed} bytes and {size - file.tell()} are left")
    places, position = {}, file.tell()
    for key in keys:  # the number of elements goes before the bytes of each storage
        text = key.decode("latin-1") if isinstance(key, bytes) else key
        if text not in claims.storages:
            refuse("a storage that no tensor uses")
        places[text] = position + 8, claims.storages[text].size
        position += 8 + claims.storages[text].size
    return Checked(tree, "", places)


def _is_plain(name: str, args: tuple[Any, ...]) -> bool:
    """True for calls of small types with plain values, which copy no more than the file holds."""
    if name == "encode" or (name == "bytearray" and len(args) == 2):
        return len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1")
    if name == "bytearray":
        return not args or type(args[0]) is str
    if name == "Size":
        return len(args) == 1 and _is_shape(args[0])
    if name == "set":
        return not args or (len(args) == 1 and type(args[0]) is list and all(type(v) in (str, bytes) for v in args[0]))
    if name == "device":
        return 0 < len(args) <= 2 and all(type(a) in (str, int) for a in args)
    if name == "complex":
        return len(args) <= 2 and all(type(a) is float for a in args)
    return False


def _is_shape(value: object) -> bool:
    return type(value) is tuple and len(value) <= _MAX_DIMENSIONS and all(_is_count(n) for n in value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 60
