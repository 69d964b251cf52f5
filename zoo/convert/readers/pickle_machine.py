"""A pickle machine that calls nothing: names in the file stand for inert objects, and every claim is checked first.

The standard library's C machine cannot serve here. It allocates what an opcode claims (16 GB for a memo index of
2^31 - 1), and BUILD writes into whatever object the file puts on the stack. This one is the library's Python machine
with most opcodes as they are. Those that would call, or would change an object, are replaced: they work on plain
lists and dicts, and ask the subclass about names.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np

MAX_STEPS = 1_000_000  # DeepMind's ResNet-200 takes some 200 000; one step holds at most some 200 bytes
_MAX_LINE = 1 << 20
_MAX_KEY = 1 << 16
_MAX_KEY_NUMBER = 1 << 31
_WIDE_BYTES_PER_STEP = 100
_LARGEST_LATIN_1 = 0xC3  # in UTF-8 a character up to U+00FF begins with this byte or a smaller one

# Opcodes that push plain values or move what is on the stack; the file decides nothing else in them.
_AS_IN_THE_LIBRARY = (
    *(pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.STOP, pickle.POP, pickle.POP_MARK, pickle.DUP),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG, pickle.LONG1, pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT),
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.SHORT_BINUNICODE),
    *(pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.LIST, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.GLOBAL, pickle.STACK_GLOBAL),
    *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
    *(pickle.PERSID, pickle.BINPERSID),
)


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A global of the file, ``module.name``; nothing is imported for it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def refuse(reason: str) -> NoReturn:
    """Raise pickle.UnpicklingError."""
    raise pickle.UnpicklingError(reason)


class _Bounded:
    """A file that refuses to read more than it holds, before anything is allocated."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.tell()
        self.left = file.seek(0, os.SEEK_END) - start
        file.seek(start)

    def read(self, size: int) -> bytes:
        if size > self.left:
            refuse(f"it claims {size} bytes where {self.left} are left")
        self.left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(_MAX_LINE)
        self.left -= len(line)
        if not line.endswith(b"\n"):
            refuse("a line without an end")
        return line


class _Steps(dict[int, Callable[[Any], None]]):
    """The opcodes of one machine, which has so many steps to make."""

    left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            refuse(f"it takes more than {MAX_STEPS} steps to read")

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self.spend(1)
        return super().__getitem__(opcode)

    def __missing__(self, opcode: int) -> NoReturn:
        refuse(f"opcode {opcode} is not on the allow-list")


class PickleMachine(pickle._Unpickler):  # the library's Python machine: documented by its source alone
    """Load a tree of None, numbers, texts, bytes, tuples, lists, dicts and what the subclass makes of names.

    A subclass says what a name, a call, and a state mean. It must return inert objects, and ``spend`` a step for each
    item that it copies.
    """

    # What the library's machine has while it loads; its stubs do not say so.
    stack: list[Any]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(self, file: BinaryIO, *, encoding: str = "ASCII") -> None:
        self.bounded = _Bounded(file)
        super().__init__(self.bounded, encoding=encoding)
        self._steps = _Steps({code[0]: pickle._Unpickler.dispatch[code[0]] for code in _AS_IN_THE_LIBRARY})
        self._steps.update({code[0]: handler for code, handler in _REPLACED.items()})
        self.dispatch = self._steps  # type: ignore[misc]  # of this machine: it counts
        self.spend = self._steps.spend

    # ---- what a subclass says

    def find_class(self, module: str, name: str) -> Name:
        """Return the inert object of a global, or raise UnpicklingError."""
        raise NotImplementedError

    def call(self, name: object, args: tuple[object, ...]) -> object:
        """Return what a call of ``name`` stands for (REDUCE and NEWOBJ), or raise UnpicklingError."""
        raise NotImplementedError

    def set_state(self, target: object, state: object) -> None:
        """Give a state to an object that ``call`` made (BUILD), or raise UnpicklingError."""
        raise NotImplementedError

    # ---- opcodes that replace the library's

    def _call(self) -> None:
        args = self.stack.pop()
        if type(args) is not tuple:
            refuse("a call without arguments")
        self.stack[-1] = self.call(self.stack[-1], args)

    def _set_state(self) -> None:
        state = self.stack.pop()
        self.set_state(self.stack[-1], state)

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[object]) -> None:
        if type(target := self.stack[-1]) is not list:
            refuse(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def _set_item(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[object]) -> None:
        if type(target := self.stack[-1]) is not dict:
            refuse(f"it sets items of a {type(target).__name__}")
        target.update(pairs(zip(items[::2], items[1::2], strict=True)))

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append(pairs(zip(items[::2], items[1::2], strict=True)))

    def _text(self) -> None:
        self._push_text(4)

    def _long_text(self) -> None:
        self._push_text(8)

    def _push_text(self, size: int) -> None:
        data = self.read(int.from_bytes(self.read(size), "little"))
        # One wide character makes a text four times as large as its bytes; arrays are latin-1.
        if not data.isascii() and np.frombuffer(data, np.uint8).max() > _LARGEST_LATIN_1:
            self.spend(len(data) // _WIDE_BYTES_PER_STEP)
        self.append(str(data, "utf-8", "surrogatepass"))

    def _text_line(self) -> None:
        line = self.readline()[:-1]
        self.spend(len(line) // _WIDE_BYTES_PER_STEP)
        self.append(str(line, "raw-unicode-escape"))

    def _bytearray(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))


_REPLACED: dict[bytes, Callable[[Any], None]] = {
    pickle.REDUCE: PickleMachine._call,
    pickle.NEWOBJ: PickleMachine._call,
    pickle.BUILD: PickleMachine._set_state,
    pickle.APPEND: PickleMachine._append,
    pickle.APPENDS: PickleMachine._appends,
    pickle.SETITEM: PickleMachine._set_item,
    pickle.SETITEMS: PickleMachine._set_items,
    pickle.DICT: PickleMachine._dict,
    pickle.UNICODE: PickleMachine._text_line,
    pickle.BINUNICODE: PickleMachine._text,
    pickle.BINUNICODE8: PickleMachine._long_text,
    pickle.BYTEARRAY8: PickleMachine._bytearray,
}


def pairs(items: Iterable[object]) -> dict[object, object]:
    """Return a dict of pairs. Its keys are short texts, bytes and small numbers: others can be made to collide.

    Python's hashes of texts and bytes are salted; those of large numbers, floats and tuples are known beforehand, and
    50 000 keys of one hash take half a minute.
    """
    made: dict[object, object] = {}
    for item in items:
        if not isinstance(item, tuple | list) or len(item) != 2:
            refuse("a mapping without pairs")
        key, value = item
        if not is_key(key):
            refuse(f"a key of type {type(key).__name__}, or a long one")
        made[key] = value
    return made


def is_key(key: object) -> bool:
    """True for a key that ``pairs`` takes."""
    if type(key) in (str, bytes):
        return len(key) <= _MAX_KEY  # type: ignore[arg-type]
    return key is None or (type(key) is int and abs(key) < _MAX_KEY_NUMBER)
