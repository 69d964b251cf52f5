"""Printed output of ``zoo list`` and ``zoo info``: the registry, and the scores measured for its weights."""

from __future__ import annotations

import shutil
import sys
import textwrap
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypedDict

from zoo.errors import UserError, did_you_mean
from zoo.hub import pretrained
from zoo.hub.weights import RANDOM, is_hub_reference, is_path, locate
from zoo.models import registry
from zoo.models.licences import UNKNOWN, commercial_use, is_non_commercial, permits_commercial_use, where_stated
from zoo.models.model_config import CONFIG, read_config
from zoo.models.registry import ARCHITECTURES, DEFAULT_MODEL, FOR_REAL_WORK, LINEAR, ModelSpec, Score, Weights
from zoo.system.json_reader import fields
from zoo.system.shipped import shipped_folder
from zoo.system.terminal import print_json, print_line
from zoo.system.verbosity import note

RESULTS = shipped_folder("model_cards") / "results"


class MeasuredScore(TypedDict):
    """A score in percent of ``zoo evaluate``, the command that measures it again, and the JSON file it stands in."""

    score: float
    interval_95: list[float]
    what: str
    command: str
    file: str


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
        score = _score(spec, tag)
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
            _print_wrapped("", legend)


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


def say_default(model: str) -> None:
    """Print on stderr, unless it is quiet, what to take for real work, if ``model`` is the default demo network."""
    if is_demo(model):
        note(default_note())


def is_demo(model: str) -> bool:
    """True for the default demo network with its weights."""
    name, tag = registry.split_name(model)
    return name == DEFAULT_MODEL and tag != RANDOM


def default_note() -> str:
    """Return the line that says what the default network is, and what to take for real work."""
    texts: list[str] = []
    for name in FOR_REAL_WORK:
        spec = registry.MODELS[name]
        tag = spec.default_tag
        score = _score(spec, tag)
        assert tag is not None
        assert score is not None
        licence = spec.weights[tag].licence
        words = "non-commercial" if is_non_commercial(licence) else licence
        texts.append(f"{name} ({words}, {score.value:g} %{'' if texts else ' ImageNet'})")
    return f"{DEFAULT_MODEL} is a small demo network; for real work --model {' or '.join(texts)}"


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


def _score(spec: ModelSpec, tag: str | None) -> Score | None:
    """Return the published top-1 of these weights, or of the paper where none are released."""
    scores = spec.weights[tag].scores if tag else spec.scores
    return next((score for score in scores if "top-1" in score.protocol), None)


def _score_key(spec: ModelSpec, tag: str | None) -> tuple[float, str]:
    score = _score(spec, tag)
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


def print_info(name: str, *, full: bool = False) -> None:
    """Print what is known of a model, in a screen of 24 lines of 100 characters.

    Args:
        name: ``NAME`` or ``NAME.tag``; or a file, a folder or ``hf-hub:ORG/NAME``, as ``zoo.load`` takes them.
        full: print all sets of weights, and the command of each measurement.

    Raises:
        UserError: no such model or tag.
    """
    if is_hub_reference(name) or is_path(name):
        _print_file(name)
        return
    spec = registry.find(name)
    chosen = registry.split_name(name)[1] or spec.default_tag
    if chosen == RANDOM and chosen not in spec.weights:
        chosen = spec.default_tag
    if chosen is not None and chosen not in spec.weights:
        raise UserError(f"{spec.name} has no weights {chosen!r}; its tags: {', '.join(spec.weights) or 'none'}")
    architecture = ARCHITECTURES[spec.architecture]
    # Describe the model itself, whatever its weights.
    print_line(f"{spec.name}: {spec.method}, {spec.architecture}")
    print_line(f"  network    timm {architecture.timm_name} {dict(architecture.model_args) or ''}".rstrip())
    print_line(f"  embedding  {architecture.num_features} numbers, {architecture.parameters / 1e6:.3f} M parameters")
    for score in spec.scores:
        print_line(f"  published  {_published(score)}")
    for tag in spec.weights if full else [chosen] if chosen else []:
        _print_weights(spec, tag, full=full)
    # The others by name, so that a screen holds it all.
    if not full and (others := [tag for tag in spec.weights if tag != chosen]):
        more = f"{', '.join(others)} (`zoo info {spec.name}.TAG`, or --full)"
        _print_wrapped("  others     ", more if name == spec.name else f"{len(others)}: `zoo info {spec.name}`")
    # Without weights, the recipe is the way to the model.
    if not spec.weights:
        print_line("  weights    none released")
    if spec.recipe:
        print_line(f"  train      zoo-train run {spec.recipe} --data DATA --out RUN")


def _print_file(name: str) -> None:
    """Print what weights outside the registry say of themselves."""
    if name.endswith(".onnx"):
        raise UserError(f"{name} is an ONNX file: `zoo extract --model {name}` takes it, and its metadata describe it")
    file = locate(name)
    architecture, transform = file.architecture, file.preprocessing
    print_line(f"{file.name}: {file.method}")
    print_line(f"  network    timm {architecture.timm_name} {dict(architecture.model_args) or ''}".rstrip())
    print_line(f"  embedding  {architecture.num_features} numbers, {architecture.parameters / 1e6:.3f} M parameters")
    print_line(f"  file       {file.path}")
    print_line(f"  sha256     {file.sha256}")
    if converted := _how_converted(file.folder):
        print_line(f"  converted  {converted}")
    source = f"; source: {file.source}" if file.source else ""
    print_line(f"  licence    {file.licence} ({commercial_use(file.licence)}){source}")
    _print_wrapped("  pixels     ", f"{transform.summary}, mean {transform.mean}, std {transform.std}")
    if architecture.is_resnet:
        print_line(f"  padding    {architecture.padding}, stem {architecture.stem}")
    print_line(f"  heads      {', '.join(file.parts) or 'none'}")


def _how_converted(folder: Path | None) -> str:
    """Say with which ``--from`` a folder was converted, and which of two networks it holds; empty for other files."""
    if folder is None:
        return ""
    extra = read_config(folder / CONFIG).extra
    return (
        f"--from {extra['converted_from']}, the {extra['network']} network"
        if {"network", "converted_from"} <= extra.keys()
        else ""
    )


def _print_weights(spec: ModelSpec, tag: str, *, full: bool) -> None:
    from zoo.publish.card.gather import card_path

    weights = spec.weights[tag]
    transform = weights.preprocessing
    print_line(f"  weights    {spec.name}.{tag}{' (default)' if tag == spec.default_tag else ''}")
    print_line(f"    file      {weights.place}")
    print_line(f"    sha256    {_sha256(weights)}")
    # Weights inside the package have no publisher's hash.
    if not weights.bundled:
        print_line(f"    published hash  {_published_hash(weights)}")
    if weights.by_hand:
        _print_wrapped("    by hand   ", weights.by_hand)
    if weights.other_link:
        print_line(f"    also at   {weights.other_link}")
    print_line(f"    here      {_local_path(spec, tag)}")
    _print_wrapped("    licence   ", f"{weights.licence} ({commercial_use(weights.licence)}); source: {weights.source}")
    stated = "" if weights.licence == UNKNOWN else where_stated(weights.source)
    if note := " ".join(text for text in (f"Stated in {stated}." if stated else "", weights.licence_note) if text):
        _print_wrapped("              ", note)
    _print_wrapped("    pixels    ", f"{transform.summary}, mean {transform.mean}, std {transform.std}")
    print_line(f"    padding   {weights.padding}")
    if weights.note:
        _print_wrapped("    note      ", weights.note)
    for score in weights.scores:
        _print_wrapped("    published ", _published(score))
    for result in measured_scores(spec.name, tag):
        command = f" ({result['command']})" if full else ""
        print_line(f"    measured  {result['score']:.2f} % {result['what']}" + command)
    print_line(f"    card      model_cards/{card_path(f'{spec.name}.{tag}').name}")


def _print_wrapped(head: str, text: str) -> None:
    """Print a line, cut at words after 100 characters, or a narrower terminal's; what follows stands below the text."""
    below = " " * len(head)
    width = min(100, max(40, shutil.get_terminal_size().columns)) if sys.stdout.isatty() else 100
    for line in textwrap.wrap(text, width, initial_indent=head, subsequent_indent=below, break_on_hyphens=False):
        print_line(line)


def print_list_json(filters: Filters) -> None:
    """Print what ``zoo info`` tells, of all models that pass, as JSON; with a licence, of such weights only."""
    specs = {spec.name: spec for spec, _ in filters.models()}
    print_json([_to_json(spec, filters) for spec in specs.values()])


def _to_json(spec: ModelSpec, filters: Filters) -> dict[str, object]:
    architecture = ARCHITECTURES[spec.architecture]
    return {
        "name": spec.name,
        "method": spec.method,
        "architecture": {
            "name": spec.architecture,
            **asdict(architecture),
            "model_args": dict(architecture.model_args),
        },
        "recipe": spec.recipe or None,
        "default_tag": spec.default_tag,
        "published": [asdict(score) for score in spec.scores],
        "weights": [
            {
                "tag": tag,
                "location": weights.location,
                "sha256": weights.sha256,
                # The first download records a hash where the publisher gave none.
                "sha256_on_first_use": None if weights.bundled or weights.sha256 else pretrained.recorded_hash(weights),
                "hash_prefix": asdict(weights.hash_prefix) if weights.hash_prefix else None,
                "other_link": weights.other_link or None,
                "by_hand": weights.by_hand or None,
                "trained_on": weights.data,
                "licence": weights.licence,
                "licence_note": weights.licence_note or None,
                "non_commercial": is_non_commercial(weights.licence),
                "commercial_use": permits_commercial_use(weights.licence),  # null: nobody says so
                "source": weights.source,
                "preprocessing": weights.preprocessing.to_json(),
                "padding": weights.padding,
                "note": weights.note or None,
                "published": [asdict(score) for score in weights.scores],
                "measured": measured_scores(spec.name, tag),
            }
            for tag, weights in spec.weights.items()
            if filters.permits(spec, tag)
        ],
    }


def measured_scores(name: str, tag: str) -> list[MeasuredScore]:
    """Read the scores of these weights from ``model_cards/results``; none if that folder was not installed."""
    from zoo.evaluate.result import read_result  # which imports numpy

    scores: list[MeasuredScore] = []
    for path in sorted((RESULTS / f"{name}.{tag}").glob("*.json")):
        if path.name == "training.json":
            continue
        result = read_result(path)
        if fields(result["model"]).get("model") != f"{name}.{tag}":  # random weights
            continue
        protocol, data = result["protocol"], result["data"]["name"]
        # The command lets a reader repeat the measurement.
        scores.append(
            {
                "score": result["score"],
                "interval_95": list(result["interval_95"]),
                "what": f"{protocol} {result['metric']} on {data}",
                "command": f"zoo evaluate {protocol} --model {name}.{tag} --data {data}",
                "file": f"model_cards/results/{name}.{tag}/{path.name}",
            }
        )
    return scores


def _published(score: Score) -> str:
    return f"{score.text} % {score.protocol} ({score.where}{'' if score.verified else '; not verified'})"


def _sha256(weights: Weights) -> str:
    if weights.sha256:
        return weights.sha256
    recorded = pretrained.recorded_hash(weights)
    return f"{recorded} (as on first use here, not verified)" if recorded else "not verified yet, recorded on first use"


def _published_hash(weights: Weights) -> str:
    prefix = weights.hash_prefix
    if prefix is None:
        return "none by its authors"
    return f"{prefix.algorithm} {prefix.digits}... ({prefix.where}), verified at every download"


def _local_path(spec: ModelSpec, tag: str) -> str:
    if spec.weights[tag].bundled:
        return "ships with the package"
    folder = pretrained.cached(spec, tag)
    return str(folder) if folder.is_dir() else f"not yet: `zoo fetch {spec.name}.{tag}`, or loading it"
