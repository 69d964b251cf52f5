"""What the ``zoo`` command prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo.registry import ARCHITECTURES, DEFAULT_MODEL, ModelSpec

if TYPE_CHECKING:
    from zoo.embed import Embedder
    from zoo.export import Exported
    from zoo.extraction import Extraction


def print_list() -> None:
    """A row per model."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", min_width=max(map(len, registry.MODELS)), no_wrap=True)
    table.add_column("dim", justify="right", min_width=4, no_wrap=True)
    table.add_column("params", justify="right", min_width=7, no_wrap=True)
    table.add_column("weights", overflow="fold")
    for spec in registry.MODELS.values():
        architecture = ARCHITECTURES[spec.architecture]
        table.add_row(
            spec.name, str(architecture.num_features), f"{architecture.parameters / 1e6:.1f} M", _weights(spec)
        )
    Console().print(table)
    print(f"\ndefault of `zoo extract`: {DEFAULT_MODEL}; `zoo info NAME` tells more")


def print_info(name: str) -> None:
    """Everything the registry says of one model."""
    spec = registry.find(name)
    architecture = ARCHITECTURES[spec.architecture]
    print(f"{spec.name}: {spec.method}, {spec.architecture}")
    print(f"  network    timm {architecture.timm_name} {dict(architecture.model_args) or ''}".rstrip())
    print(f"  embedding  {architecture.num_features} numbers, {architecture.parameters / 1e6:.3f} M parameters")
    for tag, weights in spec.weights.items():
        transform = weights.preprocessing
        print(f"  weights    {spec.name}.{tag}{' (default)' if tag == spec.default_tag else ''}")
        print(f"    file      {weights.location}{'' if weights.bundled else ' (not fetched by this version)'}")
        print(f"    sha256    {weights.sha256 or 'not verified yet'}")
        print(f"    licence   {weights.licence}; source: {weights.source}")
        print(f"    pixels    resize {transform.resize} {transform.interpolation}, crop {transform.input_size}")
        print(f"    padding   {weights.padding}")
        if weights.card:
            print(f"    card      model_cards/{weights.card}")
    if not spec.weights:
        print("  weights    none released")
    print(f"  train      zoo-train run {spec.recipe} --data DATA --out RUN")


def print_opened(embedder: Embedder) -> None:
    """Which model runs, and on what."""
    identity = embedder.identity()
    engine = f"{identity['backend']} on {identity['device']}, {identity['precision']}"
    print(f"{identity['model']} ({engine}): {embedder.dim} numbers an image", flush=True)


def print_extraction(result: Extraction, out: Path) -> None:
    """The closing lines of ``zoo extract``; failures go to stderr."""
    new = result.total - result.reused
    work = f"{new} of them now, in {result.seconds:.1f} s" if new else "nothing was left to do"
    stands = f"{_count(result.ok, 'embedding')} of {_count(result.total, 'image')} in {_count(result.shards, 'shard')}"
    print(f"{out}: {stands} ({work})")
    for count, what in (
        (result.other_files, "file without an image's extension"),
        (result.links_to_folders, "link to a folder"),
    ):
        if count:
            print(f"left out: {_count(count, what)}")
    if result.failed:
        total = sum(result.failed.values())
        print(f"{_count(total, 'image')} could not be read and have no embedding:", file=sys.stderr)
        for path, reason, error in result.failures:
            print(f"  {path}: {reason} ({error})", file=sys.stderr)
        if total > len(result.failures):
            print(f"  and {total - len(result.failures)} more: see the column status", file=sys.stderr)


def _count(number: int, what: str) -> str:
    first, _, rest = what.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'} {rest}".rstrip()


def print_exported(file: Exported) -> None:
    """One line."""
    print(
        f"{file.path}: {file.bytes / 1e6:.1f} MB, largest relative difference from torch {file.parity:.1e} "
        f"on {file.photographs} photographs, sha256 {file.sha256}"
    )


def print_result(result: dict[str, Any]) -> None:
    """The score with its interval."""
    low, high = result["interval_95"]
    print(
        f"{result['model']['name']} on {result['data']['name']}: {result['protocol']} {result['metric']} "
        f"{result['score']:.2f} % (95 %: {low:.2f} to {high:.2f}; {result['seconds']:.0f} s)"
    )


def _weights(spec: ModelSpec) -> str:
    if not spec.weights:
        return "none released"
    return ", ".join(f"{tag} (ships)" if w.bundled else f"{tag} (elsewhere)" for tag, w in spec.weights.items())
