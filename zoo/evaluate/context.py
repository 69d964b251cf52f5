"""What a protocol is given: the model, the data, the options, and a folder where it may leave finished parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from zoo.errors import UserError
from zoo.evaluate.baselines import open_model
from zoo.inference.embedder import Embedder
from zoo.system.atomic_files import atomic_write_text, make_folder
from zoo.system.cache_dir import cache_folder

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """One evaluation about to run.

    Attributes:
        protocol: key of ``zoo.evaluate.protocols.PROTOCOLS``.
        model: what ``--model`` said; ``embedder`` opens it.
        data: what ``--data`` said: a folder, a parquet file, or a name that the protocol knows.
        settings: ``--set`` as written, text by name; ``options`` gives them their types.
        root: folder with data sets that are known by name.
        schedule: key of the protocol's table of schedules, ``None`` is the published one.
    """

    protocol: str
    model: str
    data: Path
    device: str | None = None
    seed: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None
    subset_files: Path | None = None
    schedule: str | None = None

    @cached_property
    def embedder(self) -> Embedder:
        """The model, opened once. UserError: it cannot be used."""
        return open_model(self.model, self.device)

    def options(self, defaults: T) -> T:
        """``defaults``, a frozen dataclass, with what ``--set`` changes.

        Values are numbers, texts, ``true``/``false``, or comma-separated numbers for a tuple.

        Raises:
            UserError: a name that the dataclass lacks (the nearest is given), or a value of another type.
        """
        types = get_type_hints(type(defaults))
        changes = {}
        for name, text in self.settings.items():
            if name not in types:
                near = get_close_matches(name, types, n=1, cutoff=0.0)
                raise UserError(
                    f"--set {name}: {self.protocol} has no such option; the nearest is {near[0]!r} "
                    f"(of {', '.join(sorted(f.name for f in fields(defaults)))})"  # type: ignore[arg-type]
                )
            changes[name] = _parse(name, text, getattr(defaults, name))
        return replace(defaults, **changes)  # type: ignore[type-var]

    def cell(self, *key: object) -> Cell:
        """A place for one finished part of this evaluation, named by everything that decides its content."""
        return Cell(self.protocol, (self.embedder.identity(), self.seed, *key))


class Cell:
    """A JSON file in the cache: a killed run finds there what it had finished. Written whole or not at all."""

    def __init__(self, protocol: str, key: object) -> None:
        text = json.dumps([protocol, key], sort_keys=True, default=str)
        self._path = cache_folder() / "evaluations" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def read(self) -> dict[str, Any] | None:
        """What an earlier run left, or ``None``; a file that is not JSON counts as none."""
        try:
            value: dict[str, Any] = json.loads(self._path.read_text())
            return value
        except (OSError, ValueError):
            return None

    def write(self, value: Mapping[str, Any]) -> None:
        """Keeps ``value``, JSON-able."""
        make_folder(self._path.parent)
        atomic_write_text(self._path, json.dumps(value))


def _parse(name: str, text: str, default: object) -> Any:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UserError(f"--set {name}: {text!r} is neither true nor false")
        return text == "true"
    if isinstance(default, tuple):
        kind = type(default[0]) if default else float
        return tuple(_number(name, part, kind) for part in text.split(",") if part)
    return _number(name, text, type(default)) if default is not None else text


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"--set {name}: {text!r} is no {kind.__name__}") from None
