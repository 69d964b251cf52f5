"""What a run of the extraction says of its output folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.embeddings.pictures import first_figures, page
from zoo.embeddings.reading import read
from zoo.embeddings.result import Embeddings

_SHOWN_FAILURES = 8  # in a notebook


@dataclass(frozen=True, repr=False)
class Extraction:
    """The state of the output folder after a run.

    Attributes:
        total, ok: numbers of images.
        duplicates: number of images with the bytes of an earlier one, with ``dedupe``; they have no embedding and have
            not failed.
        near_duplicates: number of pairs of embeddings whose cosine reaches the threshold.
        near_pairs_written: how many of them ``_near_duplicates.parquet`` holds.
        near_groups: number of groups that the pairs form, and of images in them; ``None`` in a result of version 0.3
            and before.
        near_threshold: the centred cosine that ``near="auto"`` chose; else ``None``.
        failed: number of images by reason.
        failures: the first 20 of them as (path, reason, error).
        reused: number of rows that this run did not have to embed.
        shards: number of shards.
        seconds: duration of this run.
        notes: a line for each shard that had to be made again.
        other_files, links_to_folders: how much of the folder of images was left out.
        left_out: ``other_files`` by extension; see ``zoo.sources.file_listing.Listing``.
        unended: tar files that end without a block of zeros: their last members may be missing.
        marked: number of images with an embedding and a note, by note: truncated, dark-16-bit, profile-ignored.
        missing: number of shards that other processes have yet to make, by process. While there are any, there is no
            manifest, and ``total``, ``ok`` and ``failed`` count the partition of this process.
        folder: the output folder.
        images: the source, as a URL or an absolute path.
        scaled_gain: how many times as fast the run would roughly have been with ``decode="scaled"``; ``None`` where
            decoding did not take most of it, or where it saves no ten seconds.
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
    left_out: dict[str, int]
    marked: dict[str, int]
    missing: dict[str, int]
    folder: Path
    images: str
    unended: tuple[str, ...] = ()
    near_pairs_written: int = 0
    near_groups: tuple[int, int] | None = None
    near_threshold: float | None = None
    scaled_gain: float | None = None

    def read(self, *, all_rows: bool = False, outputs: Sequence[str] = ()) -> Embeddings:
        """Read the result: paths, embeddings float32 [N, D], other columns; as ``zoo.read`` with these images."""
        return read(self.folder, all_rows=all_rows, outputs=outputs, images=self.images)

    def __repr__(self) -> str:
        return f"Extraction({str(self.folder)!r}: {self._counts()})"

    def _repr_html_(self) -> str:
        """Counts, what failed and why, and the first pictures, for a notebook."""
        why = [f"{path}: {reason} ({error})" for path, reason, error in self.failures[:_SHOWN_FAILURES]]
        if (more := sum(self.failed.values()) - len(why)) > 0 and why:
            why.append(f"and {more} more: zoo.read({str(self.folder)!r}, all_rows=True)['error']")
        return page(f"{self.folder}: {self._counts()}", first_figures(self.folder, self.images), why)

    def _counts(self) -> str:
        failed = ", ".join(f"{count} {reason}" for reason, count in self.failed.items())
        copies = f"; {self.duplicates} duplicate" if self.duplicates else ""
        return f"{self.ok} of {self.total} images embedded{copies}{f'; failed: {failed}' if failed else ''}"
