"""Read the pickles that official codes published through an allow-list; nothing in them is executed."""

from __future__ import annotations

import codecs
import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError

_STATE_FIELDS = ("online_params", "target_params", "online_state", "target_state", "opt_state")


class _Fields(dict[str, object]):
    """A dict in place of every mapping and record class of the official codes."""

    def __new__(cls, *args: Any) -> _Fields:
        # pickle's NEWOBJ calls __new__ only and REDUCE calls __init__ too, so __new__ does all the work. Some writers
        # stored the state as five positional values, others as one dict.
        fields = super().__new__(cls)
        fields.update(zip(_STATE_FIELDS, args, strict=True) if len(args) == len(_STATE_FIELDS) else dict(*args))
        return fields

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):  # (dict state, slots state)
            state = {k: v for part in state if part for k, v in part.items()}
        self.update(state.get("_mapping", state.get("_dict", state)))


def _create_namedtuple(name: str, fields: Iterable[object], *_: object, **__: object) -> type:
    """Stand in for dill's class factory; the pickle's NEWOBJ needs a class."""
    names = tuple(str(f) for f in fields)

    class Record(_Fields):
        def __new__(cls, *args: object) -> Record:
            record = dict.__new__(cls)
            record.update(zip(names, args, strict=True))
            return record

    return Record


def _create_array(
    function: Callable[..., NDArray[np.generic]], args: Iterable[object], state: Any, npdict: object = None
) -> NDArray[np.generic]:
    """Stand in for dill's array constructor: create the array, then set its state; extra attributes are dropped."""
    array = function(*args)
    array.__setstate__(state)
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Protocol 2 stores bytes as latin-1 text."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return codecs.encode(text, encoding)


def _reconstruct(subtype: type, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError("an array subclass")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    ("builtins", "dict"): dict,
    ("__builtin__", "dict"): dict,
}
_ALLOWED |= {(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")}
_ALLOWED |= {(f"dill.{m}", "_create_array"): _create_array for m in ("_dill", "dill")}
_ALLOWED |= {(f"dill.{m}", "_create_namedtuple"): _create_namedtuple for m in ("_dill", "dill")}
_MAPPINGS = {"BYOLState", "_ByolExperimentState", "FlatMapping", "frozendict", "FlatMap"}
_MAPPING_MODULES = ("__main__", "haiku.", "byol", "deepmind_research.")


class _AllowList(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if name in _MAPPINGS and module.startswith(_MAPPING_MODULES):
            return _Fields
        raise pickle.UnpicklingError(f"{module}.{name} is not on the allow-list")


def read_pickle(source: bytes | BinaryIO, what: str) -> Any:
    """Read the tree of dicts and numpy arrays in ``source``.

    Args:
        source: bytes or an open file.
        what: name of the file for messages.

    Raises:
        UserError: the file asks for anything beyond arrays and mappings, or is damaged.
    """
    try:
        return _AllowList(io.BytesIO(source) if isinstance(source, bytes) else source).load()
    except MemoryError:
        raise
    except Exception as error:  # a hostile pickle can fail in any way
        raise UserError(f"{what} is refused: {error}") from None
