"""A folder of images to a folder of embeddings, killed and repeated as often as need be.

listing -> plan -> pipeline -> shards -> manifest. The plan is frozen first, every shard is a pure function of
it, and a shard appears whole or not at all: so a run goes on where another stopped, and two at once do no
harm. No lock is taken, so none can be left behind. Of several processes that share a plan (``share.py``) the one
that finds all shards there writes the manifest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.embeddings import manifest
from zoo.embeddings.plan import Plan, differences
from zoo.embeddings.shards import DamagedShard, Folder, names
from zoo.errors import UserError
from zoo.extraction import near_duplicates
from zoo.extraction.exact_duplicates import Known, find_copies
from zoo.extraction.executor import Crew, Here, Work
from zoo.extraction.fingerprint import make_identity
from zoo.extraction.incremental import (
    Overtaken,
    Previous,
    changes_since,
    describe,
    discard,
    plan_update,
    promote,
    stage,
)
from zoo.extraction.partition import EVERYTHING, Share
from zoo.extraction.pipeline import Described, Embedder
from zoo.sources import Source, absolute, open_source
from zoo.sources.file_listing import Listing
from zoo.system.atomic_files import append_line, remove_temporaries
from zoo.system.hardware import usable_cores
from zoo.system.progress import Progress
from zoo.transforms.decode import MAX_PIXELS

LOG = "run.log.jsonl"
_ATTEMPTS = 5  # at an update, while other runs move theirs into place


@dataclass(frozen=True)
class Extraction:
    """What stands in OUT after a run.

    Attributes:
        total, ok: numbers of images.
        duplicates: how many images have the bytes of an earlier one, with ``dedupe``; they have no embedding and have
            not failed.
        near_duplicates: how many pairs of embeddings are as near as asked for.
        failed: number of images by reason.
        failures: the first 20 of them as (path, reason, error).
        reused: how many rows this run did not have to embed.
        shards: how many.
        seconds: of this run.
        notes: a line for each shard that had to be made again.
        other_files, links_to_folders: how much of the folder of images was left out.
        missing: how many shards other processes have yet to make, by process. While there are any, there is no
            manifest, and ``total``, ``ok`` and ``failed`` are those of this process's share.
    """

    total: int
    ok: int
    duplicates: int
    near_duplicates: int
    failed: dict[str, int]
    failures: tuple[tuple[str, str, str], ...]
    reused: int
    shards: int
    seconds: float
    notes: tuple[str, ...]
    other_files: int
    links_to_folders: int
    missing: dict[str, int]


def extract(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    embedder: Described,
    keep: Sequence[str] = (),
    format: str = "parquet",
    dtype: str = "float32",
    batch_size: int | None = None,
    shard_size: int | None = None,
    update: bool = False,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    dedupe: bool = False,
    near: float | None = None,
    progress: Progress | None = None,
    share: Share = EVERYTHING,
    crew: Crew | None = None,
) -> Extraction:
    """Embeds every image of the source ``images`` into the folder ``out``, or goes on where a run stopped.

    Args:
        images: a folder or any other of the table in ``zoo.sources``.
        keep: columns of the source to carry into the result.
        format: ``parquet``; or ``npy`` or ``safetensors``: the vectors as [rows, D] beside each table.
        dtype: of the vectors written: ``float32`` or ``float16``.
        batch_size: crops in a forward pass; ``None`` is ``zoo.extraction.fingerprint.default_batch_size``.
        shard_size: in images, held in memory; ``None`` is ``zoo.extraction.fingerprint.default_shard_size``.
        update: take in added, changed and removed files instead of refusing them, and try again what could not
            be read. The result is what a new run over the files as they are now gives, copies and near ones too; only
            a vector's last digits can differ, where the network gives others in another batch.
        workers: threads that decode; ``None`` is one per core.
        max_pixels: of one image; those with more are refused, a row of their own says so.
        dedupe: look for files with the same bytes first, and embed one of them; the later ones keep their rows, with
            status ``duplicate``. In the end pairs of embeddings that are near each other are written to
            ``near_duplicates.parquet``. Without it no shard depends on anything outside of itself.
        near: the cosine from which on they are; ``None`` is .99. How near two images are depends on the model.
        progress: where to show it; ``None`` is silent.
        share: which shards this process makes.
        crew: who makes them in its place; ``embedder`` then only says what they use. Without one it embeds, too.

    Raises:
        TypeError: there is no crew, and ``embedder`` cannot embed.
        UserError: the input, a parameter or ``out`` must change first.
        KeyboardInterrupt: passes through and leaves ``out`` ready to be gone on with.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers {workers}: give a number above zero")
    identity = make_identity(
        embedder,
        format=format,
        dtype=dtype,
        batch_size=batch_size,
        shard_size=shard_size,
        max_pixels=max_pixels,
        keep=keep,
        dedupe=dedupe,
        near=near,
    )
    if Path(out).is_file():
        raise UserError(f"{out} is a file: choose another --out")
    source, where = open_source(images, keep), absolute(images)
    if crew is None:
        if not isinstance(embedder, Embedder):
            raise TypeError(f"{type(embedder).__name__} embeds elsewhere: give the crew that does")
        crew = Here(source, embedder, workers or usable_cores())
    run = _Run(where, source, Folder(Path(out)), workers or usable_cores(), progress, share, crew)
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
    images: str
    source: Source
    folder: Folder
    workers: int
    progress: Progress | None
    share: Share
    crew: Crew
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def to_the_end(self, identity: dict[str, Any], *, update: bool) -> Extraction:
        promote(self.folder)
        listing = self.source.listing(without=(self.folder.root, self.folder.state))
        plan = self._plan(identity, listing)
        changes = changes_since(self.folder, plan, self.source, listing.files, self.workers)
        if update:
            facts = (self.folder, plan, self.source, listing.files, changes)
            wanted = plan_update(*facts, self.workers, self.progress)
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
            copies = None
            if "dedupe" in identity:
                known, max_pixels = Known.nothing(len(listing.files)), identity["decoder"]["max_pixels"]
                copies = find_copies(self.source, listing.files, known, max_pixels, self.workers, self.progress)
            Plan.new(identity, listing.files, copies).save(self.folder.plan, self.folder.scratch)
            plan = Plan.load(self.folder.plan)  # another run may have been first
            if plan is None:
                raise Overtaken
        if found := differences(plan.identity, identity):
            others = f" (and in {', '.join(text.split()[0] for text in found[1:])})" if found[1:] else ""
            # what `auto` takes changes with what is installed
            same = f"add --backend {plan.identity['backend']}, or " if found[0].startswith("backend ") else ""
            raise UserError(f"{self.folder.root} differs in {found[0]}{others}: {same}choose another --out")
        return Plan.new(plan.identity, plan.files, plan.copies)  # what an update took over stands in the shards by now

    def _update(self, plan: Plan, wanted: Plan, listing: Listing) -> Extraction:
        try:
            staged, frozen = stage(self.folder, wanted)
            result = self._make(staged, frozen, Previous(self.folder, plan), listing)
            promote(self.folder)
        except FileNotFoundError as error:  # the run of the same update moved the files on that are missing here
            raise Overtaken from error
        return result

    def _make(self, folder: Folder, plan: Plan, previous: Previous | None, listing: Listing) -> Extraction:
        own = [shard for shard in range(plan.shards) if shard in self.share]
        missing = [shard for shard in own if not self._stands(folder, plan, shard)]
        remove_temporaries(folder.scratch, _file_names(plan, set(own) - set(missing)))
        images = sum(len(plan.rows(shard)) for shard in own)
        to_embed = sum(len(plan.to_compute(shard)) for shard in missing)
        self._log("start", images=images, to_embed=to_embed, **self._share_for_log())
        if not own:
            self.say(f"{plan.shards} shards in all, none for {self.share}: a smaller --shard-size makes more of them")
        if self.progress is not None:
            self.progress.start(images, images - to_embed)
        try:
            self.crew.make(Work(self.images, folder, plan, missing, previous, self.progress))
            elsewhere = self._missing_elsewhere(folder, plan)
            if "dedupe" in plan.identity and not elsewhere:
                near_duplicates.write(folder, plan)
            summary = manifest.summarise(folder, plan, own if elsewhere else None)
            if not elsewhere:
                manifest.write(folder, summary)
        except BaseException as error:
            with suppress(UserError, OSError):
                self._log("interrupted" if isinstance(error, KeyboardInterrupt) else "stopped")
            raise
        remove_temporaries(folder.scratch, _file_names(plan, own) if elsewhere else None)
        result = self._result(summary, summary.manifest["images"] - to_embed, plan, listing, elsewhere)
        rate = round(to_embed / result.seconds, 3)
        counts = {"ok": result.ok, "failed": result.failed, "seconds": result.seconds, "images_per_second": rate}
        self._log("end", **counts, **self._share_for_log())
        return result

    def _missing_elsewhere(self, folder: Folder, plan: Plan) -> list[int]:
        """Shards of other processes' shares that do not stand; they are read only once all are there."""
        others = [shard for shard in range(plan.shards) if shard not in self.share]
        there = folder.shard_files() if others else set()
        absent = [shard for shard in others if not there.issuperset(names(plan, shard))]
        return absent or [shard for shard in others if not self._stands(folder, plan, shard)]

    def _stands(self, folder: Folder, plan: Plan, shard: int) -> bool:
        try:
            return folder.read(plan, shard) is not None
        except DamagedShard as error:
            again = "making it again" if shard in self.share else f"run {next(iter(self.share.makers([shard])))} again"
            self.notes.append(f"{names(plan, shard)[0]} {error}: {again}")
            self.say(self.notes[-1])
            return False

    def _result(
        self, summary: manifest.Summary, reused: int, plan: Plan, listing: Listing, elsewhere: Sequence[int] = ()
    ) -> Extraction:
        return Extraction(
            total=summary.manifest["images"],
            ok=summary.manifest["ok"],
            duplicates=summary.manifest.get("duplicates", 0),
            near_duplicates=summary.manifest.get("near_duplicates", {}).get("pairs", 0),
            failed=summary.manifest["failed"],
            failures=summary.failures,
            reused=reused,
            shards=len(summary.manifest["shards"]),
            seconds=round(time.monotonic() - self.started, 3),
            notes=tuple(self.notes),
            other_files=listing.other_files,
            links_to_folders=listing.links_to_folders,
            missing=self.share.makers(elsewhere),
        )

    def say(self, line: str) -> None:
        if self.progress is not None:
            self.progress.say(line)

    def _share_for_log(self) -> dict[str, str]:
        return {} if self.share == EVERYTHING else {"share": str(self.share)}

    def _log(self, event: str, **facts: Any) -> None:
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        append_line(self.folder.root / LOG, json.dumps(line))


def _file_names(plan: Plan, shards: Iterable[int]) -> set[str]:
    return {name for shard in shards for name in names(plan, shard)}
