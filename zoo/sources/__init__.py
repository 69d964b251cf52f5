"""Find images and read their bytes, wherever they lie, behind one interface: ``Source``; nothing is decoded here.

| ``--images`` | rows | names |
|---|---|---|
| ``DIR`` | every image below it | path below DIR |
| ``DIR/*/a?.jpg`` (``**`` for any depth), ``FILE.jpg`` | the images it names | path behind the fixed part |
| ``FILE.txt``, ``.lst``, ``.csv``, ``.tsv``, ``.jsonl`` | the list's lines, in its order | as in the list |
| ``-`` | the same from standard input | as in the list |
| ``FILE.tar``, ``a-{000..009}.tar``, ``a-*.tar`` | members | ``FILE.tar/MEMBER`` |
| ``FILE.parquet``, ``a-*.parquet`` | rows with image bytes or paths | ``FILE.parquet/ROW`` |
| ``FILE.zooplan``, a part of ``zoo plan`` | its rows | those of the source |
| a folder with only such files, or of ``datasets.save_to_disk`` | the same | the same |
| ``s3://BUCKET/...``, ``https://...`` | any of these behind a URL that fsspec knows | the same |
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.errors import UserError
from zoo.sources.base import Source
from zoo.sources.file_listing import has_image
from zoo.sources.image_files import FileList, GlobFiles, ImageFolder, StdinList
from zoo.sources.parquet import TableFiles
from zoo.sources.parts import EXTENSION as PART
from zoo.sources.parts import PlannedPart
from zoo.sources.storage import Local, Remote, Storage, is_url, open_storage
from zoo.sources.tar import TarFiles
from zoo.sources.tar_members import expand
from zoo.transforms.decode import EXTENSIONS
from zoo.transforms.limits import HEIC_EXTENSIONS, NEEDS_HEIC

__all__ = ["STDIN", "Source", "absolute", "open_source"]

STDIN = "-"
_LISTS = (".txt", ".lst", ".csv", ".tsv", ".jsonl")
_TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # compressed ones are refused by a message
_ARCHIVES = (".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
_TABLES = (".parquet", ".arrow")
_WILDCARD = re.compile(r"[*?\[{]")


def open_source(images: str | os.PathLike[str], keep: Sequence[str] = (), *, image_column: str | None = None) -> Source:
    """Open the source that ``--images`` names. Read no more than its kind needs to be known.

    Args:
        images: one of the forms in the table above.
        keep: columns of the source to carry into the result.
        image_column: column of a table that holds the images or their paths, of a list that holds the paths.

    Raises:
        UserError: nothing is there, it is none of these forms, or it has no columns and one was named.
    """
    source = _open(images, keep, image_column)
    if image_column is not None and not isinstance(source, TableFiles | FileList | PlannedPart):
        raise UserError(f"--image-column {image_column}: {os.fspath(images)} is no table and no list")
    return source


def _open(images: str | os.PathLike[str], keep: Sequence[str], image_column: str | None) -> Source:
    # Normalise the place: an empty one is a mistake, and file:// means a local path.
    text = os.fspath(images)
    if not text:
        raise UserError("--images is empty: give the folder that holds the images")
    if text == STDIN:
        return StdinList(keep)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if is_url(os.fsencode(text)):
        return _open_url(text, keep, image_column)
    if text.lower().endswith(PART) and os.path.isfile(text):
        return PlannedPart(Path(text), keep, image_column, open_source)
    # A folder comes before a pattern: its name may hold wildcards.
    path = Path(text)
    if path.is_dir():
        return _open_folder(path, keep, image_column)
    # An existing file wins over a wildcard too.
    root, name = _split_at_wildcard(text)
    if path.exists():
        return _open_file(root, name, keep, image_column) if path.is_file() else ImageFolder(text, keep)
    if not _WILDCARD.search(name):
        raise UserError(f"{text} does not exist: give the folder that holds the images")
    return _open_pattern(Local(root), name, keep, image_column)


def absolute(images: str | os.PathLike[str]) -> str:
    """Return a name of the same source that holds in every working folder."""
    text = os.fspath(images).removeprefix("file://")
    if text == STDIN:
        return text
    return text if is_url(os.fsencode(text)) else os.path.abspath(text)


def _open_url(url: str, keep: Sequence[str], image_column: str | None) -> Source:
    # The query of a presigned URL is no wildcard, and no part of the name.
    place, query = url, ""
    if url.startswith(("http://", "https://")) and "=" in url.partition("?")[2]:
        place, _, query = url.partition("#")[0].partition("?")
        query = f"?{query}"
    root, name = _split_at_wildcard(place)
    if _WILDCARD.search(name):
        return _open_pattern(Remote(root, query), name, keep, image_column)
    if name.lower().endswith((*_LISTS, *_TARS, *_TABLES, *EXTENSIONS)):
        return _open_file(root, name, keep, image_column, query)
    return GlobFiles(url, "", keep)


def _open_file(root: str, name: str, keep: Sequence[str], image_column: str | None, query: str = "") -> Source:
    # The suffix decides the kind of source.
    lower = name.lower()
    if lower.endswith(_LISTS):
        return FileList(root, name, keep, query=query, path_column=image_column)
    if lower.endswith(_TARS):
        return TarFiles(open_storage(root, query), [os.fsencode(name)], keep)
    if lower.endswith(_TABLES):
        return TableFiles(open_storage(root, query), [os.fsencode(name)], keep, image_column)
    if lower.endswith(tuple(EXTENSIONS)):
        return GlobFiles(root, _escaped(name), keep, query=query)
    if lower.endswith(_ARCHIVES):
        raise UserError(f"{root}{name} is an archive that is not read in place: unpack it, and give the folder")
    if lower.endswith(HEIC_EXTENSIONS):
        raise UserError(f"{root}{name} is HEIC: {NEEDS_HEIC} reads it")
    raise UserError(
        f"{root}{name} is no source of images: give a folder, a glob, {', '.join((*_LISTS, *_TABLES))}, .tar"
    )


def _open_pattern(where: Storage, name: str, keep: Sequence[str], image_column: str | None) -> Source:
    patterns = [str(path) for path in expand(name)]
    lower = name.lower()
    # Containers: every pattern names tar files or tables.
    if lower.endswith((*_TARS, *_TABLES)):
        found: list[bytes] = []
        for pattern in patterns:
            try:
                found += sorted(where.matches(pattern)) if _WILDCARD.search(pattern) else [os.fsencode(pattern)]
            except OSError as error:
                raise UserError(f"cannot list {where.root}{pattern} ({error.strerror}): put that right") from None
        if not found:
            raise UserError(f"no file matches {where.root}{name}")
        return TarFiles(where, found, keep) if lower.endswith(_TARS) else TableFiles(where, found, keep, image_column)
    # Otherwise the pattern names single images.
    if len(patterns) > 1:
        raise UserError(f"{where.root}{name}: {{a..b}} is for .tar and .parquet files")
    return GlobFiles(where.root, name, keep)


def _open_folder(path: Path, keep: Sequence[str], image_column: str | None) -> Source:
    where = Local(os.path.join(path, ""))
    try:
        saved = _saved_dataset(path)
    except PermissionError:  # the listing says it of the folder
        return ImageFolder(str(path), keep)
    if saved:
        return TableFiles(where, saved, keep, image_column)
    tables, tars = _containers(path, ".parquet"), sorted(_containers(path, ".tar"))
    if (tables or tars) and not has_image(path):
        return TableFiles(where, sorted(tables), keep, image_column) if tables else TarFiles(where, tars, keep)
    return ImageFolder(str(path), keep)


def _containers(path: Path, extension: str) -> list[bytes]:
    """Return the files of a kind in a folder and in its ``data``, where the Hugging Face Hub has them."""
    return [
        os.fsencode(os.path.relpath(file, path))
        for folder in (path, path / "data")
        if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
        for file in folder.iterdir()
        if file.suffix.lower() == extension and not file.name.startswith(".") and file.is_file()
    ]


def _saved_dataset(path: Path) -> list[bytes]:
    """Return the Arrow files of ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``, in their order."""
    if (path / "dataset_dict.json").is_file():
        splits = _json(path / "dataset_dict.json").get("splits", [])
        names = splits if isinstance(splits, list) else []
        return [file for split in names if _is_plain(split) for file in _split_files(path, f"{split}/")]
    return list(_split_files(path, "")) if (path / "state.json").is_file() else []


def _split_files(path: Path, below: str) -> Iterator[bytes]:
    entries = _json(path / below / "state.json").get("_data_files")
    for entry in entries if isinstance(entries, list) else []:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not _is_plain(name):
            raise UserError(f"{path / below / 'state.json'} names a file outside its folder: it is no saved dataset")
        yield os.fsencode(f"{below}{name}")


def _is_plain(name: object) -> bool:
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        return False
    return not any("\ud800" <= character <= "\udfff" for character in name)  # no name of a file in UTF-8


def _json(path: Path) -> dict[str, object]:
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        loaded = None
    if not isinstance(loaded, dict):
        raise UserError(f"{path} cannot be read: save the dataset again")
    return loaded


def _split_at_wildcard(text: str) -> tuple[str, str]:
    """Split at the last '/' before the first wildcard; a folder that is there may have some in its name."""
    start = 0
    while first := _WILDCARD.search(text, start):
        end = text.find("/", first.end())
        if end < 0 or not os.path.isdir(text[:end]):
            break
        start = end + 1
    cut = text.rfind("/", 0, first.start() if first else len(text)) + 1
    return text[:cut], text[cut:]


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
