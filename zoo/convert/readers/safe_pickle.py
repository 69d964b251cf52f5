"""Read the pickles that official codes published through an allow-list; nothing in them is executed.

No object of numpy is made while the file is read: its dtypes and arrays are records of our own. A file that can reach
the real ones can crash the process, for BUILD writes a dtype's flags and raw bytes then become pointers. The arrays
are made at the end, from bytes whose number was compared with the shape.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zoo.convert.readers.pickle_machine import Name, PickleMachine, pairs, refuse
from zoo.errors import UserError, reason_of

_STATE_FIELDS = ("online_params", "target_params", "online_state", "target_state", "opt_state")
_MAPPINGS = {"BYOLState", "_ByolExperimentState", "FlatMapping", "frozendict", "FlatMap"}
_MAPPING_MODULES = ("__main__", "haiku.", "byol", "deepmind_research.")
_DTYPE = re.compile(r"[<=|]?(b1|i[1248]|u[1248]|f[248]|c8|c16)")  # numpy's kinds of plain numbers, in bytes
_MAX_DIMENSIONS = 32
_MAX_DEPTH = 100
_BEGUN = (None, None)  # of a list or dict that is being finished


@dataclass(eq=False)
class _Bytes:
    """Raw bytes, or the latin-1 text that protocol 2 stores for them; converted once, however often they are used."""

    source: str | bytes | None
    made: bytearray = field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self.made if self.source is None else self.source)

    def buffer(self) -> bytearray:
        if self.source is not None:
            self.made = bytearray(self.source, "latin-1") if isinstance(self.source, str) else bytearray(self.source)
            self.source = None  # a large file is not held twice
        return self.made


@dataclass(eq=False)
class _Dtype:
    """A numpy dtype of plain numbers, in the byte order of this machine."""

    code: str


@dataclass(eq=False)
class _Array:
    """A numpy array whose state the file has not given yet, or the checked parts of one."""

    dtype: str = ""
    shape: tuple[int, ...] | None = None
    data: _Bytes | None = None
    fortran: bool = False

    def make(self) -> NDArray[np.generic]:
        if self.shape is None or self.data is None:
            refuse("an array without a state")
        flat: NDArray[np.generic] = np.frombuffer(self.data.buffer(), np.dtype(self.dtype))
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


@dataclass(eq=False)
class _Record:
    """A named tuple's class: the names of its fields."""

    names: tuple[str, ...]


class _OfficialFile(PickleMachine):
    """Knows the names in DeepMind's and detectron2's files."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._bytes: dict[int, _Bytes] = {}  # by the id of their source, which they keep alive

    def find_class(self, module: str, name: str) -> Name:
        if (module, name) not in _CALLS and not (name in _MAPPINGS and module.startswith(_MAPPING_MODULES)):
            refuse(f"{module}.{name} is not on the allow-list")
        return Name(module, name)

    def call(self, name: object, args: tuple[object, ...]) -> object:
        if isinstance(name, _Record):
            self.spend(len(args))
            return dict(zip(name.names, args, strict=True))
        if not isinstance(name, Name):
            refuse(f"it calls a {type(name).__name__}")
        function: Callable[..., object] = _CALLS.get((name.module, name.name), _OfficialFile.mapping)
        return function(self, *args)

    def set_state(self, target: object, state: object) -> None:
        if type(target) is dict:
            parts = state if isinstance(state, tuple) else (state,)  # (state of the dict, state of the slots)
            for part in parts:
                if part is not None:
                    target.update(self._mapping_in(part))
        elif isinstance(target, _Array):
            self._set_array(target, state)
        elif isinstance(target, _Dtype):
            self._check_dtype_state(target, state)
        else:
            refuse(f"it sets the state of a {type(target).__name__}")

    # ---- what the names stand for

    def mapping(self, *args: object) -> dict[Any, object]:
        """Stand in for every mapping and record class of the official codes."""
        # Some writers stored the state as five positional values, others as one dict.
        if len(args) == len(_STATE_FIELDS):
            return dict(zip(_STATE_FIELDS, args, strict=True))
        if len(args) == 1 and type(args[0]) is dict:
            return args[0]
        if len(args) == 1 and type(args[0]) is list:
            self.spend(len(args[0]))
            return pairs(args[0])
        return {} if not args else refuse(f"a mapping of {len(args)} values")

    def record(self, _: object, fields: object, *more: object) -> _Record:
        """Stand in for dill's factory of named tuples."""
        if not isinstance(fields, tuple | list) or not all(isinstance(f, str) for f in fields):
            refuse("a named tuple without names")
        self.spend(len(fields))
        return _Record(tuple(fields))

    def dtype(self, code: object, *_: object) -> _Dtype:
        match = _DTYPE.fullmatch(code) if isinstance(code, str) else None
        return _Dtype(match[1]) if match else refuse(f"an array of {str(code)[:20]}: only plain numbers are read")

    def array(self, subtype: object, *_: object) -> _Array:
        if not isinstance(subtype, Name) or str(subtype) != "numpy.ndarray":
            refuse("an array subclass")
        return _Array()

    def dill_array(self, function: object, args: object, state: object, *_: object) -> _Array:
        """Stand in for dill's array constructor; extra attributes are dropped."""
        if not isinstance(function, Name) or function.name != "_reconstruct" or not isinstance(args, tuple):
            refuse("an array of another constructor")
        array = self.array(*args)
        self._set_array(array, state)
        return array

    def scalar(self, dtype: object, data: object) -> _Array:
        array = _Array()
        self._set_array(array, (1, (), dtype, False, data))
        return array

    def encoded(self, text: object, encoding: object) -> _Bytes:
        """Stand in for ``_codecs.encode``: protocol 2 stores bytes as latin-1 text."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            refuse(f"encoding {str(encoding)[:20]!r}")
        return self._once(text)

    def no_bytes(self) -> bytes:
        return b""

    # ---- states

    def _mapping_in(self, state: object) -> Mapping[object, object]:
        if type(state) is not dict:
            refuse(f"a mapping of a {type(state).__name__}")
        inner = state.get("_mapping", state.get("_dict", state))
        if type(inner) is not dict:
            refuse(f"a mapping of a {type(inner).__name__}")
        self.spend(len(inner))
        return inner

    def _check_dtype_state(self, dtype: _Dtype, state: object) -> None:
        # (version, byte order, subdtype, names, fields, size, alignment, flags, ...) of numpy's dtype
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            refuse("an array of records")
        if state[1] not in ("<", "=", "|") and dtype.code[1:] != "1":
            refuse("an array of another byte order")

    def _set_array(self, array: _Array, state: object) -> None:
        # (version, shape, dtype, is Fortran's order, bytes) of numpy's array
        if not isinstance(state, tuple) or len(state) != 5 or array.shape is not None:
            refuse("an array with an unknown state")
        _, shape, dtype, fortran, data = state
        if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS or not isinstance(dtype, _Dtype):
            refuse("an array with an unknown shape or dtype")
        if not all(type(n) is int and 0 <= n < 1 << 60 for n in shape):
            refuse("an array with an unknown shape or dtype")
        if not isinstance(data, bytes | _Bytes):
            refuse("an array of objects")
        held = data if isinstance(data, _Bytes) else self._once(data)
        # The shape is compared with the bytes before an array of it is made.
        needed = math.prod(shape) * int(dtype.code[1:])
        if needed != len(held):
            refuse(f"an array claims {needed} bytes and has {len(held)}")
        array.dtype, array.shape, array.data, array.fortran = dtype.code, shape, held, bool(fortran)

    def _once(self, source: str | bytes) -> _Bytes:
        return self._bytes.setdefault(id(source), _Bytes(source))


_CALLS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): lambda *_: refuse("numpy.ndarray is called"),
    ("numpy", "dtype"): _OfficialFile.dtype,
    ("_codecs", "encode"): _OfficialFile.encoded,
    ("collections", "OrderedDict"): _OfficialFile.mapping,
    **{(module, "dict"): _OfficialFile.mapping for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _OfficialFile.no_bytes for module in ("builtins", "__builtin__")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _OfficialFile.array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _OfficialFile.scalar for core in ("core", "_core")},
    **{(f"dill.{m}", "_create_array"): _OfficialFile.dill_array for m in ("_dill", "dill")},
    **{(f"dill.{m}", "_create_namedtuple"): _OfficialFile.record for m in ("_dill", "dill")},
}


def read_pickle(source: bytes | BinaryIO, what: str) -> Any:
    """Read the tree of dicts, lists, tuples and numpy arrays in ``source``.

    Arrays share the file's bytes where the file shares them, so the tree takes no more memory than the file.

    Args:
        source: bytes or an open file.
        what: name of the file for messages.

    Raises:
        UserError: the file asks for anything beyond arrays and mappings, claims more than it holds, or is damaged.
    """
    try:
        tree = _OfficialFile(io.BytesIO(source) if isinstance(source, bytes) else source).load()
        return _finished(tree, {}, 0)
    except MemoryError:
        raise
    except Exception as error:  # a hostile pickle can fail in any way
        raise UserError(f"{what} is refused: {reason_of(error)}") from None


def _finished(value: object, done: dict[int, tuple[object, object]], depth: int) -> Any:
    """Replace our records by arrays and bytes, each once: a tree may refer to one part from many places.

    Args:
        done: by id, a value and what became of it. The value is kept, so that no other can get its id.
    """
    if isinstance(value, _Array | _Bytes | dict | list | tuple):
        if id(value) in done:
            return done[id(value)][1] if done[id(value)] is not _BEGUN else refuse("a value that holds itself")
        if depth > _MAX_DEPTH:
            refuse(f"nested more than {_MAX_DEPTH} deep")
    if isinstance(value, _Array):
        made: object = value.make()
    elif isinstance(value, _Bytes):
        made = bytes(value.buffer())
    elif isinstance(value, dict):
        done[id(value)] = _BEGUN
        for key, inner in value.items():
            value[key] = _finished(inner, done, depth + 1)
        made = value
    elif isinstance(value, list):
        done[id(value)] = _BEGUN
        value[:] = [_finished(inner, done, depth + 1) for inner in value]
        made = value
    elif isinstance(value, tuple):
        made = tuple(_finished(inner, done, depth + 1) for inner in value)
    elif isinstance(value, _Dtype | _Record | Name):
        refuse(f"a {type(value).__name__.strip('_').lower()} among its values")
    else:
        return value
    done[id(value)] = value, made
    return made
