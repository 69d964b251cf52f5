"""A folder of images to a folder of embeddings, killed and repeated as often as need be.

listing -> plan -> pipeline -> shards -> manifest. The plan is frozen first, every shard is a pure function of
it, and a shard appears whole or not at all: so a run goes on where another stopped, and two at once do no
harm. No lock is taken, so none can be left behind.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo import manifest
from zoo.errors import UserError
from zoo.files import append_line, remove_temporaries
from zoo.images import DECODER, MAX_PIXELS, PILLOW_MAX_PIXELS
from zoo.listing import Listing, list_images
from zoo.pipeline import Embedder, compute_shards
from zoo.plan import Plan, differences
from zoo.progress import Progress
from zoo.shards import FORMATS, DamagedShard, Folder, names
from zoo.update import Overtaken, Previous, changes_since, describe, discard, plan_update, promote, stage

LOG = "run.log.jsonl"
_ATTEMPTS = 5  # at an update, while other runs move theirs into place


@dataclass(frozen=True)
class Extraction:
    """What stands in OUT after a run.

    Attributes:
        total, ok: numbers of images.
        failed: number of images by reason.
        failures: the first 20 of them as (path, reason, error).
        reused: how many rows this run did not have to embed.
        shards: how many.
        seconds: of this run.
        notes: a line for each shard that had to be made again.
        other_files, links_to_folders: how much of the folder of images was left out.
    """

    total: int
    ok: int
    failed: dict[str, int]
    failures: tuple[tuple[str, str, str], ...]
    reused: int
    shards: int
    seconds: float
    notes: tuple[str, ...]
    other_files: int
    links_to_folders: int


def extract(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    embedder: Embedder,
    format: str = "parquet",
    batch_size: int = 32,
    shard_size: int = 1024,
    update: bool = False,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Extraction:
    """Embeds every image below the folder ``images`` into the folder ``out``, or goes on where a run stopped.

    Args:
        format: ``parquet``, or ``npy``: the vectors as float32 [rows, D] beside each table.
        batch_size, shard_size: in images.
        update: take in added, changed and removed files instead of refusing them, and try again what could not
            be read.
        workers: threads that decode; ``None`` is one per core.
        max_pixels: of one image; those with more are refused, a row of their own says so.
        progress: where to show it; ``None`` is silent.

    Raises:
        UserError: the input, a parameter or ``out`` must change first.
        KeyboardInterrupt: passes through and leaves ``out`` ready to be gone on with.
    """
    _check(format, batch_size, shard_size, workers, max_pixels)
    if Path(out).is_file():
        raise UserError(f"{out} is a file: choose another --out")
    identity = _identity(embedder, format, batch_size, shard_size, max_pixels)
    run = _Run(Path(images), Folder(Path(out)), embedder, workers or _cores(), progress)
    for _ in range(_ATTEMPTS):
        try:
            return run.to_the_end(identity, update=update)
        except Overtaken:
            run.say("another run has updated the same folder: looking again at what is left")
        except OSError as error:  # what is wrong with an image is a row: this is the output folder
            raise UserError(f"{error.filename}: {error.strerror}: put it right, or choose another --out") from error
    raise UserError(f"other runs keep updating {out}: wait for them and run the same command again")


@dataclass
class _Run:
    images: Path
    folder: Folder
    embedder: Embedder
    workers: int
    progress: Progress | None
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def to_the_end(self, identity: dict[str, Any], *, update: bool) -> Extraction:
        promote(self.folder)
        listing = list_images(self.images, without=(self.folder.root, self.folder.state))
        plan = self._plan(identity, listing)
        root = os.fsencode(self.images)
        changes = changes_since(self.folder, plan, root, listing.files, self.workers)
        if update:
            wanted = plan_update(self.folder, plan, root, listing.files, changes)
            if wanted is not None:
                return self._update(plan, wanted, listing)
            discard(self.folder)
        elif changed := describe(changes, plan, listing.files):
            raise UserError(f"{changed} since {self.folder.root} was started: add --update, or choose another --out")
        summary = manifest.completed(self.folder, plan)
        if summary is not None:
            remove_temporaries(self.folder.scratch)  # of a run that was killed behind its manifest
            self.say(f"nothing left to do in {self.folder.root}")
            return self._result(summary, len(plan.files), plan, listing)
        return self._make(self.folder, plan, None, listing)

    def _plan(self, identity: dict[str, Any], listing: Listing) -> Plan:
        plan = Plan.load(self.folder.plan)
        if plan is None:
            if self.folder.shard_files():
                raise UserError(f"{self.folder.root} holds other embeddings: choose another --out")
            self.folder.create()
            Plan.new(identity, listing.files).save(self.folder.plan, self.folder.scratch)
            plan = Plan.load(self.folder.plan)  # another run may have been first
            if plan is None:
                raise Overtaken
        if found := differences(plan.identity, identity):
            others = f" (and in {', '.join(text.split()[0] for text in found[1:])})" if found[1:] else ""
            raise UserError(f"{self.folder.root} differs in {found[0]}{others}: choose another --out")
        return Plan.new(plan.identity, plan.files)  # what an update took over stands in the shards by now

    def _update(self, plan: Plan, wanted: Plan, listing: Listing) -> Extraction:
        try:
            staged, frozen = stage(self.folder, wanted)
            result = self._make(staged, frozen, Previous(self.folder, plan), listing)
            promote(self.folder)
        except FileNotFoundError as error:  # the run of the same update moved the files on that are missing here
            raise Overtaken from error
        return result

    def _make(self, folder: Folder, plan: Plan, previous: Previous | None, listing: Listing) -> Extraction:
        missing = [shard for shard in range(plan.shards) if not self._stands(folder, plan, shard)]
        standing = {name for shard in set(range(plan.shards)) - set(missing) for name in names(plan, shard)}
        remove_temporaries(folder.scratch, standing)
        to_embed = sum(len(plan.to_compute(shard)) for shard in missing)
        self._log("start", images=len(plan.files), to_embed=to_embed)
        if self.progress is not None:
            self.progress.start(len(plan.files), len(plan.files) - to_embed)
        try:
            self._fill(folder, plan, missing, previous)
            summary = manifest.summarise(folder, plan)
            manifest.write(folder, summary)
        except BaseException as error:
            with suppress(UserError, OSError):
                self._log("interrupted" if isinstance(error, KeyboardInterrupt) else "stopped")
            raise
        remove_temporaries(folder.scratch)
        result = self._result(summary, len(plan.files) - to_embed, plan, listing)
        rate = round(to_embed / result.seconds, 3)
        self._log("end", ok=result.ok, failed=result.failed, seconds=result.seconds, images_per_second=rate)
        return result

    def _stands(self, folder: Folder, plan: Plan, shard: int) -> bool:
        try:
            return folder.read(plan, shard) is not None
        except DamagedShard as error:
            self.notes.append(f"{names(plan, shard)[0]} {error}: making it again")
            self.say(self.notes[-1])
            return False

    def _fill(self, folder: Folder, plan: Plan, missing: list[int], previous: Previous | None) -> None:
        frozen = os.stat(folder.plan)
        shards = compute_shards(plan, missing, os.fsencode(self.images), self.embedder, self.workers, self.progress)
        with closing(shards):
            for shard, rows in shards:
                if previous is not None:
                    previous.take_over(plan, shard, rows)
                if not os.path.samestat(frozen, os.stat(folder.plan)):
                    raise UserError(f"{folder.root} was updated by another run: run the same command again")
                folder.write(plan, shard, rows)

    def _result(self, summary: manifest.Summary, reused: int, plan: Plan, listing: Listing) -> Extraction:
        return Extraction(
            total=summary.manifest["images"],
            ok=summary.manifest["ok"],
            failed=summary.manifest["failed"],
            failures=summary.failures,
            reused=reused,
            shards=plan.shards,
            seconds=round(time.monotonic() - self.started, 3),
            notes=tuple(self.notes),
            other_files=listing.other_files,
            links_to_folders=listing.links_to_folders,
        )

    def say(self, line: str) -> None:
        if self.progress is not None:
            self.progress.say(line)

    def _log(self, event: str, **facts: Any) -> None:
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        append_line(self.folder.root / LOG, json.dumps(line))


def _check(format: str, batch_size: int, shard_size: int, workers: int | None, max_pixels: int) -> None:
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")
    for name, value in (("batch size", batch_size), ("shard size", shard_size), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: give a number above zero")
    if not 1 <= max_pixels <= PILLOW_MAX_PIXELS:
        raise UserError(f"max pixels {max_pixels}: give a number from 1 to {PILLOW_MAX_PIXELS}")


def _identity(embedder: Embedder, format: str, batch_size: int, shard_size: int, max_pixels: int) -> dict[str, Any]:
    of_embedder = embedder.identity()
    identity = {
        **of_embedder,
        "dim": embedder.dim,
        "decoder": {**DECODER, "max_pixels": max_pixels},
        "format": format,
        "batch_size": batch_size,
        "shard_size": shard_size,
        "versions": {**of_embedder.get("versions", {}), "pyarrow": pa.__version__},
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
