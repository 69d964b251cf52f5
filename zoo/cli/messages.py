"""Printed output of the commands; of list and info see ``model_list`` and ``model_info``, of search ``zoo.search``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.inference.measured_precision import ALLOWED_LOSS, measured
from zoo.inference.outputs import EMBEDDING
from zoo.models import checkpoint_dir
from zoo.models.licences import commercial_use
from zoo.models.model_config import MODEL
from zoo.sources.file_listing import LINKED, SPARSE, SPECIAL
from zoo.system.hardware import emulates_bf16, gpu_in_sight
from zoo.system.terminal import print_line
from zoo.system.verbosity import note, say
from zoo.transforms.limits import HEIC_EXTENSIONS, NEEDS_HEIC

if TYPE_CHECKING:
    from zoo.convert.convert import Converted
    from zoo.embeddings.merge import Merged
    from zoo.embeddings.verify import Verified
    from zoo.export.checkpoint_formats import Renamed
    from zoo.export.export import Exported
    from zoo.extraction.extraction import Extraction
    from zoo.extraction.ray_executor import RemoteModel
    from zoo.inference.embedder import Embedder
    from zoo.publish.publish import PublishResult
    from zoo.publish.space import SpaceResult

_MAX_PROCESSES = 8  # named in a line
_MAX_KINDS = 12  # likewise
_MANY_NEAR = 0.1  # of the images: more near duplicates than that are seldom true
_NOTES = {
    "truncated": "of which the end is missing, embedded as far as they go",
    "dark-16-bit": "of 16 bits without a value above 4095, nearly black: --white16 4095 scales 12 bits",
    "incomplete": "from progressive JPEGs without their last scans, embedded without those details",
    "thumbnail": "from thumbnails of a camera's raw data: convert the raw files to JPEG or TIFF",
    "unchecked": "from JPEGs with arithmetic coding, whose damage cannot be seen",
    "profile-ignored": "with a colour profile that cannot be used",
}


def print_opened(embedder: Embedder | RemoteModel) -> None:
    """Print which model runs, on what, and what it returns; a GPU that is not used is a note on stderr."""
    identity = embedder.identity()
    backend = f"{identity['backend']} on {identity['device']}, {identity['precision']}: {embedder.backend_reason}"
    shapes = {name: shape for name, shape in embedder.shapes.items() if name != EMBEDDING}
    others = "".join(f", {name} {list(shape)}" for name, shape in shapes.items())
    say(f"{identity['model']} ({backend}): {embedder.dim} numbers an image{others}")
    if identity["device"] == "cpu" and gpu_in_sight():
        note(f"NOTE: there is a GPU here, and {identity['backend']} runs on the CPU")
    if identity["device"] == "cpu" and identity["precision"] == "bf16" and emulates_bf16():
        note("NOTE: this CPU has no instructions for bf16, and computes it several times more slowly than fp32")
    _note_precision(str(identity["model"]), str(identity["backend"]), str(identity["precision"]))


def _note_precision(model: str, backend: str, precision: str) -> None:
    """Say on stderr what int8 loses: by how much where it is more than half a point, or that nobody measured it."""
    if precision != "int8":
        return
    found = measured(model, backend, precision)
    if found is None:
        note(
            f"NOTE: what int8 loses with {model} on {backend} is not measured: run `python benchmarks/precision.py "
            "--models NAME --data DIR`, or compare the neighbours in an --out of fp32"
        )
    elif found.loss > ALLOWED_LOSS:
        note(
            f"NOTE: int8 costs {model} on {backend} {found.loss:.1f} points of kNN accuracy "
            f"({found.fp32:.1f} to {found.reduced:.1f} % on {found.data}): --precision fp32 loses none"
        )


def print_extraction(result: Extraction, out: Path) -> None:
    """Print the result of ``zoo extract``; images that failed go to stderr."""
    # Tell the work of this run apart from what earlier runs left.
    new = result.total - result.reused
    work = f"{new} of them now, in {result.seconds:.1f} s" if new else "nothing was left to do"
    counts = f"{_count(result.ok, 'embedding')} of {_count(result.total, 'image')} in {_count(result.shards, 'shard')}"
    say(f"{out}: {counts} ({work})")

    # skipped files, duplicates, and shards that other processes still make
    if result.other_files:
        say(f"left out: {_count(result.other_files, 'file')}{_by_kind(result.left_out)}")
    if result.links_to_folders:
        say(f"left out: {_count(result.links_to_folders, 'link to a folder')}")
    for name, count in result.marked.items():
        say(f"{_count(count, 'image')} {_NOTES.get(name, name)}: see the column error")
    if result.duplicates:
        say(f"{_count(result.duplicates, 'image')} with the bytes of an earlier one: status duplicate, no embedding")
    if result.near_threshold is not None:
        say(f"near: a cosine of at least {result.near_threshold}, chosen from this collection")
    if result.near_duplicates:
        _print_near_duplicates(result, out)
    if result.missing:
        # Name only the first processes, for a large job has many.
        processes = [f"{process} makes {count}" for process, count in result.missing.items()]
        more = f" and {len(processes) - _MAX_PROCESSES} more processes" if len(processes) > _MAX_PROCESSES else ""
        shards = _count(sum(result.missing.values()), "shard")
        named = ", ".join(processes[:_MAX_PROCESSES])
        say(f"{shards} still missing: {named}{more}; the last one to finish writes the manifest")

    # Hints on stderr, once a run.
    if result.unended:
        several = len(result.unended) > 1
        named = (
            f"{result.unended[0]} and {len(result.unended) - 1} more end" if several else f"{result.unended[0]} ends"
        )
        note(
            f"WARNING: {named} without a block of zeros: if a download or a full disk cut it off, its last images "
            "are missing; compare its size with that of the source"
        )
    if result.scaled_gain is not None:
        note(
            f"decoding took most of the time: --decode scaled would be about {result.scaled_gain:.1f} times as fast on "
            "JPEGs like these, and moves embeddings by less than 1 % of their length (a new --out)"
        )
    # Failures come last, where they are seen.
    if result.failed:
        total = sum(result.failed.values())
        has = "has" if total == 1 else "have"
        print_line(f"{_count(total, 'image')} could not be read and {has} no embedding:", file=sys.stderr)
        for path, reason, error in result.failures:
            print_line(f"  {path}: {reason} ({error})", file=sys.stderr)
        if total > len(result.failures):
            print_line(f"  and {total - len(result.failures)} more: see the column status", file=sys.stderr)
        _hint_at_relative_paths(result)
        if not result.missing:
            note("mended files are tried again by the same command with --update")


def _hint_at_relative_paths(result: Extraction) -> None:
    """Say where paths of a list begin, if one that is missing there lies in the working folder."""
    source = Path(result.images)
    if not source.is_file() or source.parent == Path.cwd():
        return
    for path, reason, _ in result.failures:
        if reason == "missing" and not os.path.isabs(path) and os.path.exists(path):
            note(
                f"paths of {source.name} begin at its folder, {source.parent}; "
                f"{path} is there from the folder you are in"
            )
            return


def _print_near_duplicates(result: Extraction, out: Path) -> None:
    from zoo.embeddings.manifest import NEAR_DUPLICATES, NEAR_GROUPS

    pairs = _count(result.near_duplicates, "pair")
    if (written := result.near_pairs_written) < result.near_duplicates:
        say(f"the first {written} of {pairs} of near duplicates: {out / NEAR_DUPLICATES}; the groups are of all")
    else:
        say(f"{pairs} of near duplicates: {out / NEAR_DUPLICATES}")
    if result.near_groups is not None:
        groups, images = result.near_groups
        say(f"{_count(images, 'image')} in {_count(groups, 'group')} of them: {out / NEAR_GROUPS}")
        if images > _MANY_NEAR * result.ok:
            advice = (
                "look at some groups before you drop any"
                if result.near_threshold is not None
                else "if they are not, this network's cosines crowd near 1: --near auto, with a new --out, chooses a "
                "threshold from the collection"
            )
            note(f"WARNING: {images} of {result.ok} images ({images / result.ok:.0%}) are near duplicates: {advice}")


def _by_kind(left_out: Mapping[str, int]) -> str:
    """Return `` without an image's extension (3 .txt, 1 hidden)``; a kind that a package would read says so."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{count} {kind or 'without extension'}" for kind, count in kinds[:_MAX_KINDS])
    more = f", {len(kinds) - _MAX_KINDS} more kinds" if len(kinds) > _MAX_KINDS else ""
    heic = any(kind in HEIC_EXTENSIONS for kind in left_out)
    is_of_tar = not {LINKED, SPECIAL, SPARSE}.isdisjoint(left_out)
    what = " that are not read in place" if is_of_tar else " without an image's extension"
    return f"{what} ({named}{more})" + (f"; {NEEDS_HEIC} reads HEIC" if heic else "")


def _count(number: int, noun: str) -> str:
    """Return ``3 images``, ``1 link to a folder``: the first word gets the plural."""
    first, _, rest = noun.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'} {rest}".rstrip()


def print_verified(verified: Verified) -> None:
    """Print the counts of a verified extraction and its plan's key."""
    m = verified.manifest
    unknown = "" if verified.has_plan else "; its plan is gone, so what it says of the model was compared with nothing"
    say(
        f"{verified.folder.root}: {_count(m['ok'], 'embedding')} of {_count(m['images'], 'image')} in "
        f"{_count(len(verified.parts), 'shard')}, every hash agrees; plan {m['plan'][:16]}...{unknown}"
    )


def print_merged(merged: Merged) -> None:
    """Print the merged files and the shapes in them."""
    names = " and ".join(str(path) for path in merged.files)
    others = "".join(f", {name} {' x '.join(map(str, shape))}" for name, shape in merged.others.items())
    say(f"{names}: {_count(merged.rows, 'row')} x {merged.dim} {merged.dtype}{others}, read back and equal")


def print_exported(file: Exported, model: str) -> None:
    """Print the ONNX file's size, its differences from torch, and what int8 was measured to lose with this model."""
    say(
        f"{file.path}: {file.bytes / 1e6:.1f} MB, {file.variant.precision}, opset {file.variant.opset}; against torch "
        f"on {file.photographs} photographs: relative difference {file.parity:.1e}, cosine {file.cosine:.6f}; "
        f"sha256 {file.sha256}"
    )
    _note_precision(model, "onnx", file.variant.precision)


def print_published(result: PublishResult) -> None:
    """Print where the repository is, and how far the loaders differ from torch."""
    size, a = f"{_count(len(result.files), 'file')}, {sum(result.files.values()) / 1e6:.1f} MB", result.agreement
    state = f"live as {result.commit}, downloaded again and equal" if result.commit else "nothing was sent"
    say(f"{result.where}: {size}, {state}")
    say(f"largest relative difference from torch on {a.photographs} photographs: timm {a.timm:.1e}, ONNX {a.onnx:.1e}")


def print_published_space(result: SpaceResult) -> None:
    """Print where the Space is, and how far its network differs from torch."""
    size = f"{_count(len(result.files), 'file')}, {sum(result.files.values()) / 1e6:.1f} MB"
    state = f"live as {result.commit}, downloaded again and equal" if result.commit else "nothing was sent"
    say(f"{result.where}: {size}, {state}; ONNX differs from torch by {result.parity:.1e}")


@contextmanager
def download_progress() -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar for a download; yield a function that takes the bytes so far and the total, if known."""
    from zoo.system.progress import Progress

    with Progress("MB") as bar:
        shown, started = 0, False  # megabytes on the bar

        def update(done: int, total: int | None) -> None:
            nonlocal shown, started
            megabytes = done // 10**6
            # The total is known only when the first bytes arrive.
            if not started:
                started, shown = True, megabytes
                if total:
                    bar.start(total // 10**6, megabytes)
            bar.advance(max(megabytes - shown, 0))  # a download that starts again goes back
            shown = megabytes

        yield update


def print_fetched(folder: Path) -> None:
    """Print where the weights are, their licence and their hashes."""
    config = checkpoint_dir.read(folder)
    licence = f"{config.licence} ({commercial_use(config.licence)})"
    say(f"{folder}: {config.full_name}, licence {licence}, source: {config.source}")
    official = config.extra.get("official_sha256")
    say(f"sha256 of the official file {official}, of model.safetensors {config.sha256[MODEL]}")


def print_converted(converted: Converted) -> None:
    """Print what the new folder holds, its licence, and how many tensors of the file were left out."""
    config, architecture = converted.config, converted.config.architecture
    if converted.found:
        say(f"found {converted.found}")
    # Heads and unusual arguments are named only if there are any.
    heads = f", {' and '.join(config.heads)}" if config.heads else ""
    args = f" {dict(architecture.model_args)}" if architecture.model_args else ""
    stem = ", a 3x3 stem without a max-pool" if architecture.stem == "cifar" else ""
    say(
        f"{converted.folder}: {config.full_name}, timm {architecture.timm_name}{args} "
        f"with {architecture.padding} padding{stem}, {architecture.num_features} numbers an image, "
        f"{architecture.parameters / 1e6:.3f} M parameters{heads}"
    )
    transform = config.preprocessing
    if transform.channels != 3:
        say(f"images: {transform.summary}, mean {transform.mean}, std {transform.std} (--mean, --std give others)")
    say(f"licence {config.licence}; source: {config.source}")
    if converted.left_out:
        say(f"left out: {_count(len(converted.left_out), 'tensor')}, first {converted.left_out[0]}")
    if converted.dropped:
        named = ", ".join(f"{place} ({kind})" for place, kind in list(converted.dropped.items())[:3])
        more = f" and {len(converted.dropped) - 3} more" if len(converted.dropped) > 3 else ""
        say(f"not read, as only tensors and plain values are: {named}{more}")


def print_renamed(renamed: Renamed) -> None:
    """Print the file with renamed keys, and what its reader must know besides."""
    say(f"{renamed.path}: {_count(renamed.tensors, 'tensor')}, sha256 {renamed.sha256}")
    for text in renamed.notes:
        say(f"note: {text}")


def print_result(result: Mapping[str, Any]) -> None:
    """Print a score of ``zoo evaluate`` with its 95 % interval; ``result`` is its JSON."""
    low, high = result["interval_95"]
    print_line(
        f"{result['model']['name']} on {result['data']['name']}: {result['protocol']} {result['metric']} "
        f"{result['score']:.2f} % (95 %: {low:.2f} to {high:.2f}; {result['seconds']:.0f} s)"
    )
