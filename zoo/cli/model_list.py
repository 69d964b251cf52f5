"""Printed output of ``zoo list``: the models that pass the filters."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from zoo.errors import UserError, did_you_mean
from zoo.models import registry
from zoo.models.licences import UNKNOWN, is_non_commercial
from zoo.models.registry import ARCHITECTURES, DEFAULT_MODEL, LINEAR, ModelSpec, Score, Weights
from zoo.system.terminal import print_line, print_wrapped
from zoo.system.verbosity import note


@dataclass(frozen=True)
class Filters:
    """Which models are listed, and in which order.

    Attributes:
        licence: ``commercial`` (permits it), ``non-commercial``, or an SPDX name; ``None`` is every one.
        max_params: largest number of parameters, in millions.
        method: such as ``byol``.
        sort: ``name`` (the registry's order), ``score``, ``params``, ``dim`` or ``licence``.
        tags: all sets of weights, not only the default of each name.
        names: part of a name, with ``tags`` of ``NAME.tag``, or a pattern with ``*`` and ``?``; ``None`` is every one.
    """

    licence: str | None = None
    max_params: float | None = None
    method: str | None = None
    sort: str = "name"
    tags: bool = False
    names: str | None = None

    def models(self) -> list[tuple[ModelSpec, str | None]]:
        """Return the models that pass, each with a tag; ``None`` where no weights are released.

        Raises:
            UserError: no model has such a name, licence or method.
        """
        every = [
            (spec, tag)
            for spec in registry.MODELS.values()
            for tag in (spec.weights if self.tags and spec.weights else [spec.default_tag])
        ]
        _require_known("--licence", self.licence, [*_KINDS_OF_LICENCE, *_licences()])
        methods = sorted({spec.method for spec, _ in every})
        _require_known("--method", None if self.method is None else _method(self.method), methods, shown=self.method)
        if self.names is not None and not any(self._is_named(*entry) for entry in every):
            guess = registry.did_you_mean_model(self.names)
            raise UserError(f"no model is called {self.names!r}: {guess}`zoo list` shows all names")
        found = [entry for entry in every if self._passes(*entry)]
        if self.sort == "name":
            return found
        # The largest score first, all else from small to large; what is not known comes last.
        keys = {"score": _score_key, "params": _parameters, "dim": _dim, "licence": _licence_key}
        return sorted(found, key=lambda entry: keys[self.sort](*entry))

    def _is_named(self, spec: ModelSpec, tag: str | None) -> bool:
        wanted = (self.names or "").lower()
        pattern = wanted if any(mark in wanted for mark in "*?[") else f"*{wanted}*"
        return fnmatchcase(spec.name, pattern) or (self.tags and fnmatchcase(f"{spec.name}.{tag}", pattern))

    def _passes(self, spec: ModelSpec, tag: str | None) -> bool:
        if not self._is_named(spec, tag):
            return False
        if self.max_params is not None and ARCHITECTURES[spec.architecture].parameters > self.max_params * 1e6:
            return False
        if self.method is not None and _method(self.method) != spec.method:
            return False
        return self.permits(spec, tag)

    def permits(self, spec: ModelSpec, tag: str | None) -> bool:
        """True if the licence of these weights is one that was asked for."""
        if self.licence is None:
            return True
        wanted = self.licence.lower()
        if tag is None:  # without weights there is no licence
            return False
        licence = spec.weights[tag].licence
        if wanted in _KINDS_OF_LICENCE and licence == UNKNOWN:  # nobody permits any use
            return False
        if wanted in _KINDS_OF_LICENCE:
            return is_non_commercial(licence) == (wanted == "non-commercial")
        return licence.lower() == wanted


def print_list(filters: Filters) -> None:
    """Print the models, one a line; on a terminal with a line below that explains the columns."""
    rows = [("name", "input", "dim", "params", "top-1", "licence", "download")]
    for spec, tag in filters.models():
        architecture = ARCHITECTURES[spec.architecture]
        weights = spec.weights[tag] if tag else None
        score = published_score(spec, tag)
        rows.append(
            (
                f"{spec.name}.{tag}" if filters.tags and tag else spec.name,
                str(weights.preprocessing.input_size) if weights else "-",
                str(architecture.num_features),
                f"{architecture.parameters / 1e6:.1f} M",
                "-" if score is None else f"{score.value:g}{'' if score.protocol.startswith(LINEAR) else '*'}",
                weights.licence if weights else "-",
                _download(weights),
            )
        )
    # Names and licences to the left, numbers to the right; a terminal gets a gap between methods.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns = _columns_that_fit(widths)
    grouped = filters.sort == "name" and sys.stdout.isatty()
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        cells = [f"{row[i]:{'<' if i in (0, 5, 6) else '>'}{widths[i]}}" for i in columns]
        print_line("  ".join(cells).rstrip())
        if grouped and after and row is not rows[0] and row[0].partition("_")[0] != after[0].partition("_")[0]:
            print_line("")
    if len(rows) == 1:
        note("no model passes all of these filters")
    if filters.licence is not None and not filters.tags:
        _say_other_tags(filters)
    if sys.stdout.isatty():
        print_line("")
        for legend in (
            "top-1: ImageNet, linear, as published (* otherwise). download: at most, or by hand; none: train it.",
            "licence: -NC- forbids commercial use, unknown permits no use; the rest: `zoo list --licence commercial`.",
            f"default of `zoo extract`: {DEFAULT_MODEL}; details: `zoo info NAME`; filters: `zoo list -h`",
        ):
            print_wrapped("", legend)


_DROPPED_FIRST = (1, 2, 6, 3, 4)  # input, dim, download, params, top-1; name and licence stay


def _columns_that_fit(widths: list[int]) -> list[int]:
    """Return the columns of a list that a terminal has room for; all of them where the output is no terminal."""
    columns = list(range(len(widths)))
    if sys.stdout.isatty():
        for column in _DROPPED_FIRST:
            if sum(widths[i] + 2 for i in columns) - 2 > shutil.get_terminal_size().columns:
                columns.remove(column)
    return columns


def _say_other_tags(filters: Filters) -> None:
    """Say on stderr which names have weights of the wanted licence although their default has another one."""
    shown = {spec.name for spec, _ in filters.models()}
    others = [(spec, tag) for spec, tag in replace(filters, tags=True).models() if spec.name not in shown]
    if others:
        spec, tag = others[0]
        names = ", ".join(dict.fromkeys(spec.name for spec, _ in others))
        note(f"also under other tags than the default (--tags): {names}; such as {spec.name}.{tag}")


_KINDS_OF_LICENCE = ("commercial", "non-commercial")


def _require_known(option: str, value: str | None, known: list[str], *, shown: str | None = None) -> None:
    if value is not None and value.lower() not in [name.lower() for name in known]:
        guess = did_you_mean(value, known)
        raise UserError(f"{option} {shown or value!r} is not known: {guess}choose from {', '.join(known)}")


def _method(name: str) -> str:
    """Return the name of a method here: recipes call MoCo v2 by its version, VISSL calls InstDisc NPID."""
    return {"mocov2": "moco", "npid": "instdisc"}.get(name.lower(), name.lower())


def _licences() -> list[str]:
    return sorted({weights.licence for spec in registry.MODELS.values() for weights in spec.weights.values()})


def published_score(spec: ModelSpec, tag: str | None) -> Score | None:
    """Return the published top-1 of these weights, or of the paper where none are released."""
    scores = spec.weights[tag].scores if tag else spec.scores
    return next((score for score in scores if "top-1" in score.protocol), None)


def _score_key(spec: ModelSpec, tag: str | None) -> tuple[float, str]:
    score = published_score(spec, tag)
    return (0.0 if score is None else -score.value), spec.name


def _parameters(spec: ModelSpec, tag: str | None) -> tuple[float, str]:
    return ARCHITECTURES[spec.architecture].parameters, spec.name


def _dim(spec: ModelSpec, tag: str | None) -> tuple[float, str]:
    return ARCHITECTURES[spec.architecture].num_features, spec.name


def _licence_key(spec: ModelSpec, tag: str | None) -> tuple[float, str]:
    return (1.0, "") if tag is None else (0.0, spec.weights[tag].licence)


def _download(weights: Weights | None) -> str:
    if weights is None:
        return "none"
    if weights.bundled:
        return "ships"
    return "by hand" if weights.by_hand else f"{weights.max_megabytes / 1000:g} GB"
