"""The content of ``index.json``, and the check of one that was read."""

from __future__ import annotations

import re
from typing import NotRequired, TypedDict, cast

from zoo.system.json_reader import BadJson, fields, sha256, text, whole

FORMAT = "siamese-zoo index 2"
WITHOUT_MEAN = "siamese-zoo index 1"  # of earlier versions
_INDEX_FILE = re.compile(r"(exact|graph)-[0-9a-f]{16}\.(npy|usearch)")
_MEAN_FILE = re.compile(r"mean-[0-9a-f]{16}\.npy")


class Recall(TypedDict):
    """Share (``value``) of the exact ``at`` nearest rows that the index finds, over ``sample`` rows as queries."""

    at: int
    sample: int
    value: float


class MeanFile(TypedDict):
    """Name and sha256 of the file that holds the collection's mean."""

    file: str
    sha256: str


class IndexInfo(TypedDict):
    """Content of ``index.json``; ``kind`` is ``exact`` or ``usearch``, ``left_out`` counts rows without embedding."""

    format: str
    kind: str
    file: str
    sha256: str
    dim: int
    indexed: int
    left_out: int
    recall: Recall
    manifest_sha256: str
    plan: object
    model: object
    weights_sha256: object
    preprocessing: object
    mean: NotRequired[MeanFile]  # not in format 1


def check_info(value: object) -> IndexInfo:
    """Check a parsed ``index.json``. BadJson: it is none, or the file that it names is in another folder."""
    info = fields(value, *(key for key in IndexInfo.__annotations__ if key != "mean"))
    for key in ("format", "kind", "file", "manifest_sha256"):
        text(info[key])
    sha256(info["sha256"])
    for key in ("dim", "indexed", "left_out"):
        whole(info[key])
    if not _INDEX_FILE.fullmatch(text(info["file"])) or info["kind"] not in ("exact", "usearch"):
        raise BadJson("it names no index file")
    if "mean" in info:
        mean = fields(info["mean"], "file", "sha256")
        sha256(mean["sha256"])
        if not _MEAN_FILE.fullmatch(text(mean["file"])):
            raise BadJson("it names no file of a mean")
    return cast(IndexInfo, info)
