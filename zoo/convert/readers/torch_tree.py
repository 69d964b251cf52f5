"""Read the tensors of a file of ``torch.save`` whatever else is pickled beside them; nothing in it is executed.

Training scripts store their arguments, numpy scalars, schedulers and whole objects of their own classes next to the
weights. Here every such object stands as a record of its name, which nothing imports and nothing calls. Tensors are
made from bytes whose number was compared with their shape (``torch_claims``), and the records are dropped by name.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from zoo.convert.readers.pickle_machine import Name, is_key, refuse
from zoo.convert.readers.torch_claims import TENSOR_CLASSES, Checked, Claims, StorageClaim, TensorClaim, check_claims
from zoo.errors import UserError, reason_of

_MAX_DEPTH = 100
_MAX_NAMED = 1000  # objects of one file that messages can name


@dataclass(frozen=True)
class TorchFile:
    """The content of a file.

    Attributes:
        content: dicts, lists, tensors on the CPU and plain values; a pickled module is the dict of its tensors.
        dropped: class or function of the objects that were not read, by their place (``state_dict.conv1.weight``).
    """

    content: Any
    dropped: Mapping[str, str]


@dataclass(eq=False, slots=True)
class _Unread:
    """An object of a class that is not read: its name, and the state and items that the file gives it."""

    name: object
    state: dict[Any, object] | None = None
    items: dict[Any, object] = field(default_factory=dict)

    @property
    def children(self) -> dict[Any, object]:
        """Items of a mapping, or the tensors of a pickled ``nn.Module``."""
        if self.state is None or not {"_parameters", "_buffers", "_modules"} <= set(self.state):
            return self.items
        parts = (self.state[key] for key in ("_parameters", "_buffers", "_modules"))
        return {key: value for part in parts if type(part) is dict for key, value in part.items()}


class _Tree(Claims):
    """Makes records of tensors, and of everything that ``Claims`` refuses by its name."""

    encoding = "latin-1"

    def __init__(self, file: BinaryIO, records: dict[str, int] | None) -> None:
        super().__init__(file, records)
        self._steps.update({code[0]: handler for code, handler in _SETS_AND_OBJECTS.items()})

    def load(self) -> Any:
        return super(Claims, self).load()  # hooks of a tensor are never called here

    def find_class(self, module: str, name: str) -> Name:
        return Name(module, name)

    def persistent_load(self, identifier: object) -> Any:
        if isinstance(identifier, tuple) and len(identifier) > 1 and identifier[0] == "module":
            return identifier[1]  # the legacy form stores a module's source beside its class
        if isinstance(identifier, tuple) and len(identifier) > 1 and str(identifier[1]).startswith("torch.Q"):
            return _Unread(identifier[1])
        return super().persistent_load(identifier)

    def call(self, name: object, args: tuple[Any, ...]) -> object:
        if not isinstance(name, Name) or any(isinstance(arg, _Unread) for arg in args):
            return _Unread(name)
        try:
            Claims.find_class(self, name.module, name.name)
        except pickle.UnpicklingError:
            return _Unread(name)
        if name.name == "_rebuild_from_type_v2" and len(args) == 4 and str(args[1]) not in TENSOR_CLASSES:
            return _Unread(args[1])  # a class of tensor that is not read, such as a shard of FSDP
        if name.module in ("torch._utils", "torch._tensor"):
            return super().call(name, args)  # a tensor that claims too much refuses the file
        try:
            return super().call(name, args)
        except pickle.UnpicklingError:
            return _Unread(name)

    def set_state(self, target: object, state: object) -> None:
        if isinstance(target, _Unread):
            state = state[0] if isinstance(state, tuple) and state else state  # (attributes, slots)
            target.state = state if type(state) is dict else None

    def _extend(self, items: list[object]) -> None:
        if not isinstance(self.stack[-1], _Unread):
            super()._extend(items)

    def _update(self, items: list[object]) -> None:
        keys = [key if is_key(key) else _Unread(type(key).__name__) for key in items[::2]]
        target = self.stack[-1]
        if not isinstance(target, _Unread) and type(target) is not dict:
            refuse(f"it sets items of a {type(target).__name__}")
        (target.items if isinstance(target, _Unread) else target).update(zip(keys, items[1::2], strict=True))

    def _no_set(self) -> None:
        self.append(_Unread("set"))

    def _frozen_set(self) -> None:
        self.pop_mark()
        self.append(_Unread("frozenset"))

    def _add_items(self) -> None:
        self.pop_mark()

    def _call_with_keywords(self) -> None:
        self.stack.pop()
        self._call()


_SETS_AND_OBJECTS = {
    pickle.EMPTY_SET: _Tree._no_set,
    pickle.FROZENSET: _Tree._frozen_set,
    pickle.ADDITEMS: _Tree._add_items,
    pickle.NEWOBJ_EX: _Tree._call_with_keywords,
}


def read_tree(path: Path) -> TorchFile:
    """Read a file of ``torch.save`` in the zip or the legacy form.

    Raises:
        UserError: the file cannot be read, is damaged, or claims more than it holds.
    """
    try:
        with path.open("rb") as file:
            checked = check_claims(file, _Tree)
            maker = _Maker(file, checked)
            return TorchFile(maker.made(checked.tree, "", 0), maker.dropped)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except MemoryError:
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path.name} is refused: {reason_of(error)}") from None
    except Exception as error:  # a hostile file can fail in any way
        raise UserError(f"{path.name} is refused: {type(error).__name__}: {reason_of(error)}") from None


class _Maker:
    """Makes the tensors of a checked file, each storage once, and notes what is dropped."""

    def __init__(self, file: BinaryIO, checked: Checked) -> None:
        self.dropped: dict[str, str] = {}
        self._file, self._checked = file, checked
        self._archive = zipfile.ZipFile(file) if checked.root else None
        self._storages: dict[str, Tensor] = {}
        self._done: dict[int, tuple[object, object]] = {}  # by id, a value that is kept and what became of it
        order = f"{checked.root}byteorder"
        if self._archive and order in self._archive.namelist() and self._archive.read(order)[:10] != b"little":
            refuse("its numbers are big-endian: save it again on a usual machine")

    def made(self, value: object, place: str, depth: int) -> Any:
        """Return the value with tensors instead of claims; what is dropped becomes ``None``."""
        if isinstance(value, _Unread | Name):
            if len(self.dropped) < _MAX_NAMED:
                self.dropped[place or "the whole file"] = str(value.name if isinstance(value, _Unread) else value)[:100]
            value = (value.children if isinstance(value, _Unread) else None) or None
        if isinstance(value, StorageClaim):
            return None
        if not isinstance(value, TensorClaim | dict | list | tuple):
            return value
        # A tree may refer to one part from many places, and a part can be in itself.
        if id(value) in self._done:
            return self._done[id(value)][1]
        if depth > _MAX_DEPTH:
            refuse(f"nested more than {_MAX_DEPTH} deep")
        if isinstance(value, dict):
            return self._dict(value, place, depth)
        self._done[id(value)] = value, None
        made = self._tensor(value) if isinstance(value, TensorClaim) else self._sequence(value, place, depth)
        self._done[id(value)] = value, made
        return made

    def _sequence(self, value: list[object] | tuple[object, ...], place: str, depth: int) -> object:
        made = [self.made(inner, f"{place}[{n}]", depth + 1) for n, inner in enumerate(value)]
        return made if isinstance(value, list) else tuple(made)

    def _dict(self, value: dict[Any, object], place: str, depth: int) -> dict[Any, object]:
        found: dict[Any, object] = {}
        self._done[id(value)] = value, found
        for key, inner in value.items():
            if isinstance(key, _Unread):
                continue
            where = f"{place}.{key}" if place else str(key)
            made = self.made(inner, where[-200:], depth + 1)
            if made is not None or inner is None:
                found[key] = made
        return found

    def _tensor(self, claim: TensorClaim) -> Tensor:
        held = self._storage(claim.storage)
        whole = held[: len(held) // claim.dtype.itemsize * claim.dtype.itemsize].view(claim.dtype)
        return whole.as_strided(claim.size, claim.stride, claim.offset)

    def _storage(self, storage: StorageClaim) -> Tensor:
        if storage.key not in self._storages:
            self._storages[storage.key] = self._bytes(storage)
        return self._storages[storage.key]

    def _bytes(self, storage: StorageClaim) -> Tensor:
        if self._archive is not None:
            name = f"{self._checked.root}data/{storage.key}"
            size = self._archive.getinfo(name).file_size
            with self._archive.open(name) as member:
                data = bytearray(member.read(size))
        else:
            position, size = self._checked.places[storage.key]
            self._file.seek(position)
            data = bytearray(self._file.read(size))
        if len(data) != size:
            refuse(f"storage {storage.key[:40]} has {len(data)} bytes of {size}")
        return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
