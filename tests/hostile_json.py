"""Every value of a JSON file changed to each of a list of hostile ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    10**30,
    2**63,
    -(2**70),
    1e308,
    0.5,
    "",
    "x",
    "../../../etc/passwd",
    "/dev/zero",
    "embeddings-00000.parquet",
    "\x1b[2J\x07\n\u202e",
    "\ud800",
    "<b>|`$\\frac{",
    "x" * 5000,
    [],
    [1],
    [[]],
    {},
    {"a": {"b": 1}},
]
DEEP = "[" * 100_000 + "]" * 100_000
WHOLE: list[bytes] = [
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"text"',
    b"1" * 5000,
    DEEP.encode(),
    ('{"a":' * 100_000 + "1" + "}" * 100_000).encode(),
    b"[" * 200 + b"]" * 200,
    b"{} {}",
]
"""Whole files that are none of ours."""


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of keys to each value, the outer ones too."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*where, key)
        yield from places(value[key], (*where, key))


def mutations(value: Any) -> Iterator[tuple[Any, bytes]]:
    """What was changed, and the file: every value replaced, removed, and each object's first key written twice."""
    for place in places(value):
        for hostile in (*VALUES, ...):
            changed = copy.deepcopy(value)
            at = changed
            for key in place[:-1]:
                at = at[key]
            if hostile is ...:
                del at[place[-1]]
            else:
                at[place[-1]] = hostile
            yield (place, hostile), json.dumps(changed).encode()
    text = json.dumps(value)
    first = next(iter(value))
    yield "a key twice", (f'{{"{first}": 1, ' + text[1:]).encode()
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, DEEP):
        for key in value:
            changed = dict(value)
            changed[key] = "HERE"
            yield (key, number[:20]), json.dumps(changed).replace('"HERE"', number).encode()
    for whole in WHOLE:
        yield whole[:20], whole
