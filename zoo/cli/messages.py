"""What the ``zoo`` command prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.hub import pretrained
from zoo.inference.outputs import EMBEDDING, NEAR_DUPLICATES
from zoo.models import checkpoint_dir, registry
from zoo.models.licences import is_non_commercial
from zoo.models.model_config import MODEL
from zoo.models.registry import ARCHITECTURES, DEFAULT_MODEL, ModelSpec, Score, Weights
from zoo.system.hardware import gpu_in_sight

if TYPE_CHECKING:
    from zoo.convert.convert import Converted
    from zoo.embeddings.merge import Merged
    from zoo.embeddings.verify import Verified
    from zoo.export.checkpoint_formats import Renamed
    from zoo.export.export import Exported
    from zoo.extraction.extract import Extraction
    from zoo.inference.embedder import Embedder
    from zoo.publish.publish import PublishResult

_MAKERS = 8  # shown by name
RESULTS = Path(__file__).parents[2] / "model_cards" / "results"


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
    from zoo.publish.card.gather import card_path

    spec = registry.find(name)
    architecture = ARCHITECTURES[spec.architecture]
    print(f"{spec.name}: {spec.method}, {spec.architecture}")
    print(f"  network    timm {architecture.timm_name} {dict(architecture.model_args) or ''}".rstrip())
    print(f"  embedding  {architecture.num_features} numbers, {architecture.parameters / 1e6:.3f} M parameters")
    for score in spec.scores:
        print(f"  published  {_published(score)}")
    for tag, weights in spec.weights.items():
        transform = weights.preprocessing
        print(f"  weights    {spec.name}.{tag}{' (default)' if tag == spec.default_tag else ''}")
        print(f"    file      {weights.location}")
        print(f"    sha256    {_hash(weights)}")
        print(f"    here      {_place(spec, tag)}")
        print(f"    licence   {weights.licence}{_forbids(weights.licence)}; source: {weights.source}")
        print(f"    pixels    {transform.summary}, mean {transform.mean}, std {transform.std}")
        print(f"    padding   {weights.padding}")
        for score in weights.scores:
            print(f"    published {_published(score)}")
        for result in measured(spec.name, tag):
            print(f"    measured  {result['score']:.2f} % {result['what']} ({result['command']})")
        print(f"    card      model_cards/{card_path(f'{spec.name}.{tag}').name}")
    if not spec.weights:
        print("  weights    none released")
    if spec.recipe:
        print(f"  train      zoo-train run {spec.recipe} --data DATA --out RUN")


def print_list_json() -> None:
    """Everything the registry knows, as JSON: what `zoo info` tells, of all models."""
    print(json.dumps([_as_json(spec) for spec in registry.MODELS.values()], indent=1))


def _as_json(spec: ModelSpec) -> dict[str, Any]:
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
                "sha256_on_first_use": None if weights.bundled or weights.sha256 else pretrained.recorded_hash(weights),
                "licence": weights.licence,
                "non_commercial": is_non_commercial(weights.licence),
                "source": weights.source,
                "preprocessing": weights.preprocessing.to_json(),
                "padding": weights.padding,
                "published": [asdict(score) for score in weights.scores],
                "measured": measured(spec.name, tag),
            }
            for tag, weights in spec.weights.items()
        ],
    }


def measured(name: str, tag: str) -> list[dict[str, Any]]:
    """Scores of these weights in the JSON files of ``model_cards/results``; none where those did not come along."""
    found = []
    for path in sorted((RESULTS / f"{name}.{tag}").glob("*.json")):
        result = json.loads(path.read_text())
        if "protocol" not in result or result["model"]["model"] != f"{name}.{tag}":
            continue
        protocol, data = result["protocol"], result["data"]["name"]
        found.append(
            {
                "score": result["score"],
                "interval_95": result["interval_95"],
                "what": f"{protocol} {result['metric']} on {data}",
                "command": f"zoo evaluate {protocol} --model {name}.{tag} --data {data}",
                "file": f"model_cards/results/{name}.{tag}/{path.name}",
            }
        )
    return found


def _published(score: Score) -> str:
    return f"{score.value} % {score.protocol} ({score.where}{'' if score.verified else '; not verified'})"


def _hash(weights: Weights) -> str:
    if weights.sha256:
        return weights.sha256
    first = pretrained.recorded_hash(weights)
    return f"{first} (as on first use here, not verified)" if first else "not verified yet, recorded on first use"


def _place(spec: ModelSpec, tag: str) -> str:
    if spec.weights[tag].bundled:
        return "ships with the package"
    folder = pretrained.cached(spec, tag)
    return str(folder) if folder.is_dir() else f"not yet: `zoo fetch {spec.name}.{tag}`, or loading it"


def _forbids(licence: str) -> str:
    return " (not for commercial use)" if is_non_commercial(licence) else ""


def print_opened(embedder: Embedder) -> None:
    """Which model runs, and on what."""
    identity = embedder.identity()
    engine = f"{identity['backend']} on {identity['device']}, {identity['precision']}: {embedder.chosen}"
    shapes = {name: shape for name, shape in embedder.shapes.items() if name != EMBEDDING}
    others = "".join(f", {name} {list(shape)}" for name, shape in shapes.items())
    print(f"{identity['model']} ({engine}): {embedder.dim} numbers an image{others}", flush=True)
    if identity["device"] == "cpu" and gpu_in_sight():
        print(f"NOTE: there is a GPU here, and {identity['backend']} runs on the CPU", file=sys.stderr, flush=True)


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
    if result.duplicates:
        print(f"{_count(result.duplicates, 'image')} with the bytes of an earlier one: status duplicate, no embedding")
    if result.near_duplicates:
        pairs = _count(result.near_duplicates, "pair")
        print(f"{pairs} of near duplicates: {out / NEAR_DUPLICATES}")
    if result.missing:
        makers = [f"{maker} makes {count}" for maker, count in result.missing.items()]
        more = f" and {len(makers) - _MAKERS} more processes" if len(makers) > _MAKERS else ""
        shards = _count(sum(result.missing.values()), "shard")
        print(f"{shards} still missing: {', '.join(makers[:_MAKERS])}{more}; the last to end writes the manifest")
    if result.failed:
        total = sum(result.failed.values())
        has = "has" if total == 1 else "have"
        print(f"{_count(total, 'image')} could not be read and {has} no embedding:", file=sys.stderr)
        for path, reason, error in result.failures:
            print(f"  {path}: {reason} ({error})", file=sys.stderr)
        if total > len(result.failures):
            print(f"  and {total - len(result.failures)} more: see the column status", file=sys.stderr)


def _count(number: int, what: str) -> str:
    first, _, rest = what.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'} {rest}".rstrip()


def print_verified(verified: Verified) -> None:
    """One line."""
    m = verified.manifest
    print(
        f"{verified.folder.root}: {_count(m['ok'], 'embedding')} of {_count(m['images'], 'image')} in "
        f"{_count(len(verified.parts), 'shard')}, every hash agrees; plan {m['plan'][:16]}..."
    )


def print_merged(merged: Merged) -> None:
    """One line."""
    names = " and ".join(str(path) for path in merged.files)
    others = "".join(f", {name} {' x '.join(map(str, shape))}" for name, shape in merged.others.items())
    print(f"{names}: {_count(merged.rows, 'row')} x {merged.dim} {merged.dtype}{others}, read back and equal")


def print_exported(file: Exported) -> None:
    """One line."""
    print(
        f"{file.path}: {file.bytes / 1e6:.1f} MB, {file.variant.precision}, opset {file.variant.opset}; against torch "
        f"on {file.photographs} photographs: relative difference {file.parity:.1e}, cosine {file.cosine:.6f}; "
        f"sha256 {file.sha256}"
    )


def print_published(result: PublishResult) -> None:
    """Where it is now, and how far the loaders are apart."""
    size, a = f"{_count(len(result.files), 'file')}, {sum(result.files.values()) / 1e6:.1f} MB", result.agreement
    state = f"live as {result.commit}, downloaded again and equal" if result.commit else "nothing was sent"
    print(f"{result.where}: {size}, {state}")
    print(
        f"largest relative difference from torch on {a.photographs} photographs: timm {a.timm:.1e}, ONNX {a.onnx:.1e}"
    )


@contextmanager
def megabytes() -> Iterator[Callable[[int, int | None], None]]:
    """A bar for downloads, told bytes so far and in all."""
    from zoo.system.progress import Progress

    with Progress("MB") as bar:
        shown, started = 0, False

        def tell(done: int, total: int | None) -> None:
            nonlocal shown, started
            now = done // 10**6
            if not started:
                started, shown = True, now
                if total:
                    bar.start(total // 10**6, now)
            bar.advance(max(now - shown, 0))
            shown = now

        yield tell


def print_fetched(folder: Path) -> None:
    """Where the weights are, and their licence."""
    told = checkpoint_dir.read(folder)
    print(f"{folder}: {told.full_name}, licence {told.licence}{_forbids(told.licence)}, source: {told.source}")
    official = told.extra.get("official_sha256")
    print(f"sha256 of the official file {official}, of model.safetensors {told.sha256[MODEL]}")


def print_converted(converted: Converted) -> None:
    """What the new folder holds, and under which licence."""
    told, architecture = converted.config, converted.config.architecture
    heads = f", {' and '.join(told.heads)}" if told.heads else ""
    args = f" {dict(architecture.model_args)}" if architecture.model_args else ""
    print(
        f"{converted.folder}: {told.full_name}, timm {architecture.timm_name}{args} "
        f"with {architecture.padding} padding, {architecture.num_features} numbers an image, "
        f"{architecture.parameters / 1e6:.3f} M parameters{heads}"
    )
    print(f"licence {told.licence}; source: {told.source}")
    if converted.left_out:
        print(f"left out: {_count(len(converted.left_out), 'tensor')}, first {converted.left_out[0]}")


def print_renamed(renamed: Renamed) -> None:
    """One line, and what keys cannot say."""
    print(f"{renamed.path}: {_count(renamed.tensors, 'tensor')}, sha256 {renamed.sha256}")
    for note in renamed.notes:
        print(f"note: {note}")


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
    tags = [f"{tag} (ships)" if w.bundled else f"{tag} ({w.licence})" for tag, w in spec.weights.items()]
    return ", ".join(tags[:2]) + (f" and {len(tags) - 2} more" if len(tags) > 2 else "")
