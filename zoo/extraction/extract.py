"""Extract the embeddings of all images of a source into a folder, killed and repeated as often as need be.

source -> plan -> shards -> manifest. The plan is frozen first, every shard is a pure function of it, and a shard
appears whole or not at all: so a run continues where another one stopped, and two at once do no harm. The only lock is
held while a finished update moves into place, and it ends with its process. If several processes divide the shards of a
plan (``partition``), the one that finds all shards in place writes the manifest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from zoo.embeddings import manifest
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.plan import Plan
from zoo.embeddings.row_reader import RowReader
from zoo.embeddings.run_log import LOG, OLD_LOG, SOURCE, last_start
from zoo.embeddings.shards import DamagedShard, OutputFolder, OutputReplaced, names
from zoo.errors import UserError, require_positive
from zoo.extraction import incremental, near_duplicates
from zoo.extraction.changes import describe_changes, find_changes
from zoo.extraction.exact_duplicates import FileReader, KnownFiles, find_exact_duplicates
from zoo.extraction.executor import Executor, LocalExecutor, ShardJob
from zoo.extraction.extraction import Extraction
from zoo.extraction.fingerprint import ExtractionConfig, ModelInfo, make_fingerprint
from zoo.extraction.partition import ALL_SHARDS, Partition
from zoo.extraction.pipeline import FeatureExtractor
from zoo.extraction.same_options import advice, with_open_choices
from zoo.sources import absolute, open_source
from zoo.sources.file_listing import Listing
from zoo.system.atomic_files import append_line, move, remove_temporaries
from zoo.system.hardware import usable_cores
from zoo.system.progress import Progress
from zoo.system.shortage import raise_if_short

_ATTEMPTS = 5  # of a run while other runs move updates into place


def run_extraction(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: ModelInfo,
    config: ExtractionConfig,
    update: bool = False,
    workers: int | None = None,
    partition: Partition = ALL_SHARDS,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Embed every image of the source ``images`` into the folder ``out``, or continue where a run stopped.

    ``zoo.extract`` opens the model and calls this function; it describes the arguments that are not described here.

    Args:
        model: an open model. It runs here unless there is an ``executor``.
        partition: the shards that this process makes.
        executor: makes the shards instead of this process; ``model`` then only describes what it uses.

    Raises:
        TypeError: there is no executor, and ``model`` cannot embed.
        UserError: the images, a choice or ``out`` must change first.
        KeyboardInterrupt: passes through, and ``out`` is ready to be continued.
    """
    # Refuse bad options before the images are listed.
    if workers is not None:
        require_positive("workers", workers)
    fingerprint = make_fingerprint(model, config)
    if Path(out).is_file():
        raise UserError(f"{out} is a file: choose another --out")
    # Open the images, and choose who computes.
    source, threads = open_source(images, config.keep, image_column=config.image_column), workers or usable_cores()
    if executor is None:
        if not isinstance(model, FeatureExtractor):
            raise TypeError(f"{type(model).__name__} cannot embed in this process: give the executor that opened it")
        executor = LocalExecutor(source, model, threads)
    reader = FileReader(source, threads, config.max_pixels, progress, config.decode)
    run = _Run(absolute(images), OutputFolder(Path(out)), fingerprint, config, reader, partition, executor)
    # Another run can replace the folder under this one, so look again a few times.
    for _ in range(_ATTEMPTS):
        try:
            return run.finish(update=update)
        except OutputReplaced:
            run.say("another run has updated the same folder: looking again at what is left")
        except OSError as error:  # a failure at an image is a row, so this one is of the output folder
            raise_if_short(error)
            raise UserError(f"{error.filename}: {error.strerror}: put it right, or choose another --out") from error
    raise UserError(f"other runs keep updating {out}: wait for them and run the same command again")


@dataclass
class _Run:
    """One call of ``run_extraction``, from the listing to the manifest."""

    images: str
    folder: OutputFolder
    fingerprint: Fingerprint
    config: ExtractionConfig
    reader: FileReader
    partition: Partition
    executor: Executor
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def finish(self, *, update: bool) -> Extraction:
        # An update that was killed while its files moved into place comes first: any command finishes it.
        if self.folder.staged.manifest.exists():
            incremental.install_staged(self.folder)

        # List the images, and freeze the plan or agree with the one that is there.
        listing = self.reader.source.listing(without=(self.folder.root, self.folder.state))
        plan = self._frozen_plan(listing)

        # The images must be those of the plan, or be taken in.
        if update:
            previous = RowReader(self.folder, plan)
            changes = find_changes(previous, self.reader.source, listing.files, self.reader.workers)
            updated = incremental.plan_update(previous, listing.files, changes, self.reader)
            if updated is not None:
                return self._update(previous, updated, listing)
            incremental.discard_staged(self.folder)
        elif not plan.same_files(listing.files):
            self._require_unchanged(plan, listing)

        # Make the shards that are missing. The plan has the rows from here on: let go of the listing.
        listing = replace(listing, files=listing.files.schema.empty_table())
        summary = manifest.completed(self.folder, plan)
        if summary is not None:
            remove_temporaries(self.folder.scratch)  # of a run that was killed after its manifest
            self._log_new_place(plan)
            self.say(f"nothing left to do in {self.folder.root}")
            return self._result(summary, plan.images, plan, listing)
        return self._make(self.folder, plan, None, listing)

    def _frozen_plan(self, listing: Listing) -> Plan:
        plan = Plan.load(self.folder.plan)
        # Freeze a new plan where the folder has none.
        if plan is None:
            if self.folder.shard_files():
                raise UserError(f"{self.folder.root} holds other embeddings: choose another --out")
            self.folder.create()
            duplicates = None
            if self.fingerprint.dedupe:
                known = KnownFiles.nothing(len(listing.files))
                duplicates = find_exact_duplicates(listing.files, known, self.reader)
            Plan.new(self.fingerprint, listing.files, duplicates).save(self.folder.plan, self.folder.scratch)
            plan = Plan.load(self.folder.plan)  # another run may have been first
            if plan is None:
                raise OutputReplaced
        # An existing plan binds this run: refuse other settings, and take over those that nobody chose.
        wanted = with_open_choices(self.fingerprint, plan.fingerprint, self.config)
        if found := plan.fingerprint.differences(wanted):
            others = f" (and in {', '.join(text.split()[0] for text in found[1:])})" if found[1:] else ""
            same = advice(found, plan.fingerprint)
            raise UserError(f"{self.folder.root} differs in {found[0]}{others}: {same}choose another --out")
        return plan.without_reuse()

    def _require_unchanged(self, plan: Plan, listing: Listing) -> None:
        previous = RowReader(self.folder, plan)
        changes = find_changes(previous, self.reader.source, listing.files, self.reader.workers)
        if changed := describe_changes(changes, plan, listing.files):
            raise UserError(f"{changed} since {self.folder.root} was started: add --update, or choose another --out")

    def _update(self, previous: RowReader, updated: Plan, listing: Listing) -> Extraction:
        try:
            staged, frozen = incremental.open_staged(self.folder, updated)
            if not previous.is_current():  # another run has installed this update: `updated` is of the old rows
                raise OutputReplaced
            result = self._make(staged, frozen, previous, listing)
            incremental.install_staged(self.folder)
        except FileNotFoundError as error:  # another run of the same update has moved the files into place
            raise OutputReplaced from error
        if result.missing and not previous.is_current():  # they were not missing, they had moved
            raise OutputReplaced
        return result

    def _make(self, folder: OutputFolder, plan: Plan, previous: RowReader | None, listing: Listing) -> Extraction:
        # What is left to do: the shards of this partition that are not in place, unaltered.
        own = [shard for shard in range(plan.shards) if shard in self.partition]
        missing = [shard for shard in own if not self._is_in_place(folder, plan, shard)]
        remove_temporaries(folder.scratch, _file_names(plan, set(own) - set(missing)))
        images = sum(len(plan.rows(shard)) for shard in own)
        # Count the work before it starts, for the log and the progress bar.
        to_embed = sum(len(plan.to_compute(shard)) for shard in missing)
        # `zoo serve` finds the pictures by it; a URL may hold a password, so only local files are named.
        source = {SOURCE: self.images} if os.path.isabs(self.images) else {}
        self._log("start", images=images, to_embed=to_embed, **source, **self._partition_for_log())
        if not own:
            self.say(f"{plan.shards} shards in all, none for {self.partition}: a smaller --shard-size makes more")
        if self.reader.progress is not None:
            self.reader.progress.start(images, images - to_embed)

        # Make them. Whoever finds all shards in place writes the manifest.
        try:
            self.executor.run(ShardJob(self.images, folder, plan, missing, previous, self.reader.progress))
            elsewhere = self._missing_elsewhere(folder, plan)
            if plan.fingerprint.dedupe and not elsewhere:
                near_duplicates.write(folder, plan)
            summary = manifest.summarise(folder, plan, own if elsewhere else None)
            if not elsewhere:
                manifest.write(folder, summary, listing.left_out)
        except BaseException as error:
            with suppress(UserError, OSError):
                self._log("interrupted" if isinstance(error, KeyboardInterrupt) else "stopped")
            raise
        # Clear up, and report what this run did.
        remove_temporaries(folder.scratch, _file_names(plan, own) if elsewhere else None)
        result = self._result(summary, summary.manifest["images"] - to_embed, plan, listing, elsewhere)
        rate = round(to_embed / result.seconds, 3)
        counts = {"ok": result.ok, "failed": result.failed, "seconds": result.seconds, "images_per_second": rate}
        self._log("end", **counts, **self._partition_for_log())
        return result

    def _missing_elsewhere(self, folder: OutputFolder, plan: Plan) -> list[int]:
        """Return the missing shards of other partitions; shards are only read once all files are there."""
        others = [shard for shard in range(plan.shards) if shard not in self.partition]
        there = folder.shard_files() if others else set()
        absent = [shard for shard in others if not there.issuperset(names(plan, shard))]
        return absent or [shard for shard in others if not self._is_in_place(folder, plan, shard)]

    def _is_in_place(self, folder: OutputFolder, plan: Plan, shard: int) -> bool:
        try:
            return folder.read(plan, shard) is not None
        except DamagedShard as error:
            maker = next(iter(self.partition.makers([shard])))
            again = "making it again" if shard in self.partition else f"run {maker} again"
            self.notes.append(f"{names(plan, shard)[0]} {error}: {again}")
            self.say(self.notes[-1])
            return False

    def _result(
        self, summary: manifest.Summary, reused: int, plan: Plan, listing: Listing, elsewhere: Sequence[int] = ()
    ) -> Extraction:
        near, seconds = summary.manifest.get("near_duplicates", {}), round(time.monotonic() - self.started, 3)
        return Extraction(
            total=summary.manifest["images"],
            ok=summary.manifest["ok"],
            duplicates=summary.manifest.get("duplicates", 0),
            near_duplicates=near.get("pairs_found", near.get("pairs", 0)),
            near_pairs_written=near.get("pairs", 0),
            near_threshold=near.get("threshold"),
            near_groups=(near["groups"]["groups"], near["groups"]["images"]) if "groups" in near else None,
            failed=summary.manifest["failed"],
            failures=summary.failures,
            reused=reused,
            shards=len(summary.manifest["shards"]),
            seconds=seconds,
            notes=tuple(self.notes),
            other_files=listing.other_files,
            links_to_folders=listing.links_to_folders,
            left_out=dict(listing.left_out),
            unended=listing.unended,
            marked=summary.manifest.get(manifest.NOTES, {}),
            missing=self.partition.makers(elsewhere),
            folder=self.folder.root,
            images=self.images,
            scaled_gain=self._scaled_gain(seconds),
        )

    def _scaled_gain(self, seconds: float) -> float | None:
        if self.fingerprint.decode_options.decode == "scaled" or not isinstance(self.executor, LocalExecutor):
            return None
        return self.executor.times.scaled_gain(seconds)

    def say(self, line: str) -> None:
        if self.reader.progress is not None:
            self.reader.progress.say(line)

    def _partition_for_log(self) -> dict[str, str]:
        return {} if self.partition == ALL_SHARDS else {"share": str(self.partition)}

    def _log_new_place(self, plan: Plan) -> None:
        """Record where the images are now, if the folder of them was renamed since the last run."""
        before = last_start(self.folder.root).get(SOURCE)
        if before is not None and before != self.images and os.path.isabs(self.images):
            with suppress(UserError, OSError):  # a result that cannot be written is complete all the same
                self._log("start", images=plan.images, to_embed=0, **{SOURCE: self.images})

    def _log(self, event: str, **facts: object) -> None:
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        if not (self.folder.root / LOG).exists():
            move(self.folder.root / OLD_LOG, self.folder.root / LOG)
        append_line(self.folder.root / LOG, json.dumps(line))


def _file_names(plan: Plan, shards: Iterable[int]) -> set[str]:
    return {name for shard in shards for name in names(plan, shard)}
