"""The input of a protocol: model, data and options of one evaluation, and a cache for its finished parts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from zoo.errors import UserError, closest_name
from zoo.evaluate.baselines import open_model
from zoo.inference.embedder import Embedder
from zoo.system.atomic_files import atomic_write_text, make_folder
from zoo.system.cache_dir import cache_folder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


@dataclass(frozen=True)
class Context:
    """One evaluation that is about to run.

    Attributes:
        protocol: key of ``zoo.evaluate.protocols.PROTOCOLS``.
        model: value of ``--model``; ``embedder`` opens it.
        data: value of ``--data``: a folder, a file, or the name of a data set that the protocol knows.
        device: torch device; ``None`` is the first GPU, else the CPU.
        seed: for splits, crops, heads and the order of images.
        settings: the ``--set`` options as text by name; ``options`` converts them.
        root: folder that holds the data sets known by name.
        subset_files: folder with lists of labelled images for ``semi-supervised``.
        schedule: key of the protocol's table of schedules; ``None`` is the published one.
        label_column: column of ``data`` with the labels; ``None``: the one with a usual name.
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
    label_column: str | None = None

    @cached_property
    def embedder(self) -> Embedder:
        """The model, opened once. Raises UserError where it cannot be used."""
        return open_model(self.model, self.device)

    def options(self, defaults: Options) -> Options:
        """Return ``defaults``, a frozen dataclass, with the changes of ``--set``.

        A value is a number, a text, ``true`` or ``false``, or for a tuple comma-separated numbers.

        Raises:
            UserError: the dataclass has no such name (the message names the closest one), or the value has another
                type.
        """
        names = get_type_hints(type(defaults))
        changes: dict[str, object] = {}
        for name, text in self.settings.items():
            if name not in names:
                raise UserError(
                    f"--set {name}: {self.protocol} has no such option; the nearest is {closest_name(name, names)!r} "
                    f"(of {', '.join(sorted(f.name for f in fields(defaults)))})"
                )
            changes[name] = _parse(name, text, getattr(defaults, name))
        return replace(defaults, **changes)

    def cached_part(self, *key: object) -> CachedPart:
        """Return the cache file of one finished part; ``key`` holds everything that decides its content."""
        return CachedPart(self.protocol, (self.embedder.identity(), self.seed, *key))


class CachedPart:
    """A JSON file in the cache that holds one finished part: a run that was killed continues from these files."""

    def __init__(self, protocol: str, key: object) -> None:
        text = json.dumps([protocol, key], sort_keys=True, default=str)
        self._path = cache_folder() / "evaluations" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def read(self) -> Any:
        """Return what ``write`` stored, or ``None`` where there is no file or no JSON in it."""
        try:
            return json.loads(self._path.read_text())
        except (OSError, ValueError):
            return None

    def write(self, value: Mapping[str, object]) -> None:
        """Store a JSON-able mapping; the file appears whole or not at all."""
        make_folder(self._path.parent)
        atomic_write_text(self._path, json.dumps(value))


def _parse(name: str, text: str, default: object) -> object:
    """Convert the text of ``--set name=text`` to the type of the default."""
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UserError(f"--set {name}: {text!r} is neither true nor false")
        return text == "true"
    if isinstance(default, tuple):
        kind = type(default[0]) if default else float
        return tuple(_convert(name, part, kind) for part in text.split(",") if part)
    return _convert(name, text, type(default)) if default is not None else text


def _convert(name: str, text: str, kind: type) -> object:
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"--set {name}: {text!r} is no {kind.__name__}") from None
    # A comparison with NaN is false, so that a check of its range would let it pass.
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"--set {name}: {text!r} is no finite number")
    return value
