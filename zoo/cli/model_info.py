"""Printed output of ``zoo info``: a model of the registry, or a file of weights."""

from __future__ import annotations

from pathlib import Path

from zoo.cli.model_json import measured_scores
from zoo.errors import UserError
from zoo.hub import pretrained
from zoo.hub.weights import RANDOM, is_hub_reference, is_path, locate
from zoo.models import registry
from zoo.models.config_reader import read_config
from zoo.models.licences import UNKNOWN, commercial_use, where_stated
from zoo.models.model_config import CONFIG
from zoo.models.registry import ARCHITECTURES, ModelSpec, Score, Weights
from zoo.system.terminal import print_line, print_wrapped


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
        print_wrapped("  others     ", more if name == spec.name else f"{len(others)}: `zoo info {spec.name}`")
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
    print_wrapped("  pixels     ", f"{transform.summary}, mean {transform.mean}, std {transform.std}")
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
        print_wrapped("    by hand   ", weights.by_hand)
    if weights.other_link:
        print_line(f"    also at   {weights.other_link}")
    print_line(f"    here      {_local_path(spec, tag)}")
    print_wrapped("    licence   ", f"{weights.licence} ({commercial_use(weights.licence)}); source: {weights.source}")
    stated = "" if weights.licence == UNKNOWN else where_stated(weights.source)
    if note := " ".join(text for text in (f"Stated in {stated}." if stated else "", weights.licence_note) if text):
        print_wrapped("              ", note)
    print_wrapped("    pixels    ", f"{transform.summary}, mean {transform.mean}, std {transform.std}")
    print_line(f"    padding   {weights.padding}")
    if weights.note:
        print_wrapped("    note      ", weights.note)
    for score in weights.scores:
        print_wrapped("    published ", _published(score))
    for result in measured_scores(spec.name, tag):
        command = f" ({result['command']})" if full else ""
        print_line(f"    measured  {result['score']:.2f} % {result['what']}" + command)
    print_line(f"    card      model_cards/{card_path(f'{spec.name}.{tag}').name}")


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
