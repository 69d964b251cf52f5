"""Where a built folder goes: a repository of the hub, or a folder of a dry run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zoo.errors import UserError
from zoo.hub import hf_download
from zoo.system.atomic_files import copy_tree, create_folder_exclusively


def require(repository: str, dry_run: Path | None) -> None:
    """Refuse a bad name or folder before the long build.

    Raises:
        UserError: the name is none, or ``dry_run`` holds something.
    """
    hf_download.require_repository(repository)
    if dry_run is not None and dry_run.exists() and (not dry_run.is_dir() or any(dry_run.iterdir())):
        raise UserError(f"{dry_run} holds something already: choose another folder or remove it")


def keep(folder: Path, dry_run: Path) -> None:
    """Copy the built folder to that of the dry run: whole, or not at all."""
    create_folder_exclusively(dry_run, partial(copy_tree, folder))


def sizes(folder: Path) -> dict[str, int]:
    """Return the sizes in bytes of all files below a folder, by their relative names in order."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
