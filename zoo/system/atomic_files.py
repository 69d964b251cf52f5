"""Write files so that a reader never sees half of one, whatever kill or full disk comes between.

No other module makes temporary files, renames or calls fsync. A write that the machine refuses (full disk, no
permission) is a ``UserError`` of one line; the previous file is then still in place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape as glob_escape
from pathlib import Path
from typing import BinaryIO

from zoo.errors import UserError
from zoo.system.processes import is_alive

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""Error numbers of a disk that has no room left."""
REFUSED = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EBUSY)
)
"""Error numbers of a place where nothing can be written."""
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # some network file systems
_TEMPORARY = ".tmp"
_NAME_BYTES = 120  # of a file's name in that of its temporary file; a name has at most 255 bytes
_MKDIR_ATTEMPTS = 20  # of mkdir, while another process removes the same folder


def atomic_write(path: Path, write: Callable[[BinaryIO], object], *, scratch: Path | None = None) -> None:
    """Replace ``path`` by what ``write`` puts into the open binary file it is given, or leave it untouched.

    The bytes go to a temporary file, which is flushed, fsynced and renamed over ``path``; then the folder is fsynced.
    On any exception, KeyboardInterrupt too, the temporary file is removed. The temporary file of a killed writer is
    removed by the next write to ``path``.

    Args:
        scratch: folder for the temporary file, on the same file system; its owner removes what killed writers leave
            there. ``None`` is the folder of ``path``.

    Raises:
        UserError: the disk is full or the write is refused, or ``path`` is a device, a pipe or a socket.
        FileNotFoundError: another process removed the folder or the temporary file meanwhile.
    """
    with write_errors(path):
        _require_replaceable(path)
        temporary = _write_temporary(path, write, scratch)
        try:
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def atomic_write_bytes(path: Path, data: bytes, *, scratch: Path | None = None) -> None:
    """Replace ``path`` by these bytes; see ``atomic_write``."""

    def write(file: BinaryIO) -> None:
        file.write(data)

    atomic_write(path, write, scratch=scratch)


def atomic_write_text(path: Path, text: str, *, scratch: Path | None = None) -> None:
    """Replace ``path`` by this text in UTF-8, with its newlines unchanged; see ``atomic_write``."""
    atomic_write_bytes(path, text.encode(), scratch=scratch)


def create_exclusively(
    path: Path, contents: bytes | Callable[[BinaryIO], object], *, scratch: Path | None = None
) -> bool:
    """Create ``path`` with these bytes unless it exists; one of several writers at once gets True.

    The file appears whole, as a hard link to a finished temporary file. Where hard links are refused (FAT, some network
    mounts) it is opened with O_EXCL instead: there is still one winner, but the file can be seen half written.

    Args:
        contents: the bytes, or a function that writes them to the file it is given.

    Raises:
        UserError: the disk is full or the write is refused.
    """

    def write(file: BinaryIO) -> object:
        return file.write(contents) if isinstance(contents, bytes) else contents(file)

    with write_errors(path):
        # Write under a temporary name first.
        temporary = _write_temporary(path, write, scratch)
        # A hard link creates the name only if nobody has it.
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if path.exists():  # its creator has removed the temporary files since
                return False
            raise
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return _create_in_place(path, temporary)
        finally:
            with suppress(OSError):
                temporary.unlink()
        # Make the new name survive a power cut.
        sync_folder(path.parent)
        return True


def create_folder_exclusively(path: Path, fill: Callable[[Path], None]) -> bool:
    """Create the folder ``path`` with what ``fill`` puts into the folder it is given; one of several writers gets True.

    The folder appears whole, with its files fsynced, or not at all; an empty folder of that name is replaced. On any
    exception the temporary folder is removed; that of a killed writer is removed by the next writer of ``path``.

    Raises:
        UserError: a full disk or a refused write.
    """
    with write_errors(path):
        # Prepare a temporary folder beside the final one.
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary = path.with_name(_temporary_name(path))
        temporary.mkdir()
        # Fill it, and flush every file and folder to the disk.
        try:
            fill(temporary)
            for path_in_it in (*temporary.rglob("*"), temporary):
                if path_in_it.is_dir():
                    sync_folder(path_in_it)
                    continue
                with path_in_it.open("rb") as opened:
                    os.fsync(opened.fileno())
            # Commit the folder by one rename.
            try:
                os.rename(temporary, path)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        # Make the rename survive a power cut.
        sync_folder(path.parent)
        return True


def append_line(path: Path, text: str) -> None:
    """Append one line, with a newline, in a single write: the lines of several processes never mix."""
    with write_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            line = text.encode() + b"\n"
            while line:  # a disk that fills up takes a part of the line and refuses the rest
                line = line[os.write(descriptor, line) :]
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create ``path`` and its missing parents. Raises UserError if that is refused."""
    with write_errors(path):
        for _ in range(_MKDIR_ATTEMPTS):
            try:
                path.mkdir(parents=True, exist_ok=True)
                return
            except FileExistsError:
                if os.path.lexists(path) and not path.is_dir():
                    raise UserError(f"{path} is a file, not a folder: choose another path") from None
            except FileNotFoundError:  # /proc, or a parent was removed meanwhile
                pass
        raise UserError(f"{path} cannot be made there: choose another place")


def move(source: Path, target: Path) -> bool:
    """Rename ``source`` over ``target``; return False and do nothing if ``source`` is not there any more."""
    with write_errors(target):
        try:
            os.replace(source, target)
        except FileNotFoundError:
            return False
        sync_folder(target.parent)
        return True


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file. Raises UserError: the disk is full or the write is refused."""
    with write_errors(target):
        shutil.copyfile(source, target)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder's files, with their times, into ``target``, which may exist; files of the same name are replaced.

    Raises:
        UserError: the disk is full or a write is refused. What was copied stays.
    """

    def copy(one: str, to: str) -> None:
        with write_errors(Path(to)):  # copytree gathers OSErrors, and raises them as one without a number
            shutil.copy2(one, to)

    with write_errors(target):
        shutil.copytree(source, target, dirs_exist_ok=True, copy_function=copy)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with write_errors(path):
        path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a folder with everything in it, if it is there; no process can see half of it removed."""
    with write_errors(path), suppress(FileNotFoundError):
        os.replace(path, path.with_name(f"{path.name}.{secrets.token_hex(8)}{_TEMPORARY}"))
    for unnamed in path.parent.glob(f"{path.name}.*{_TEMPORARY}"):  # a remove_tree that was killed leaves one
        shutil.rmtree(unnamed, ignore_errors=True)


def remove_temporaries(folder: Path, names: set[str] | None = None) -> None:
    """Remove the temporary files of killed writers in ``folder``: all of them, or those meant for ``names``."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_TEMPORARY) and (names is None or _meant_for(entry.name) in names):
                with suppress(OSError):
                    os.unlink(entry.path)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable; do nothing where folders cannot be synced (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def begin_of_name(name: str, most: int) -> str:
    """Return a file's name, or as many whole characters of it as ``most`` bytes hold: file systems count bytes."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= most else encoded[:most].decode(errors="ignore")


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits; the file is read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_temporary(path: Path, write: Callable[[BinaryIO], object], scratch: Path | None) -> Path:
    # Not tempfile.mkstemp: its files are readable by the owner only, and would stay so after the rename.
    temporary = (scratch or path.parent) / _temporary_name(path)
    # Clear away what killed runs left.
    if scratch is None:
        _remove_abandoned(path)
    # Opened by name: a library that only writes to a path can be given the name of the file.
    file = temporary.open("xb")
    # Flush the data before any caller renames the file.
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def _require_replaceable(path: Path) -> None:
    """Raise UserError for what a rename would destroy: as root, one over ``/dev/null`` succeeds."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{path} is a device, a pipe or a socket, not a file: choose another path")


def _temporary_name(path: Path) -> str:
    return f"{_abandonable(path)}-{os.getpid()}-{secrets.token_hex(8)}{_TEMPORARY}"


def _abandonable(path: Path) -> str:
    """Return how the temporary names for ``path`` begin that a process of this machine makes."""
    return f"{begin_of_name(path.name, _NAME_BYTES)}.{(platform.node() or 'here').replace('.', '_')}"


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files and folders for ``path`` of processes of this machine that have ended."""
    begin = _abandonable(path)
    for found in path.parent.glob(f"{glob_escape(begin)}-*{_TEMPORARY}"):
        process = found.name.removeprefix(f"{begin}-").partition("-")[0]
        if process.isdigit() and not is_alive(int(process)):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                with suppress(OSError):
                    found.unlink()


def _meant_for(temporary_name: str) -> str:
    return temporary_name[: -len(_TEMPORARY)].rpartition(".")[0]


def _create_in_place(path: Path, finished: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with open(descriptor, "wb") as file, finished.open("rb") as source:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return True


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what a user can put right of the OSErrors of a write to ``path`` into a UserError of one line."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                f"disk full while writing {path}: free space and run the same command again; what was finished is kept"
            ) from error
        if error.errno in REFUSED:
            raise UserError(
                f"cannot write {path} ({error.strerror}): choose another place or allow writing there"
            ) from error
        if error.errno == errno.EEXIST and error.filename2 is not None:  # a rename
            raise UserError(
                f"the file system of {path} does not replace a file by a rename: choose a place on another one"
            ) from error
        raise
