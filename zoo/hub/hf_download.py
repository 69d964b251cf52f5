"""The model hub: its references, downloads of one revision of a repository, and what its errors mean to a user.

``hf_upload.py`` uploads; no other module talks to huggingface_hub.

The hub's ordinary cache and its variables are honoured: ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_CACHE``,
``HF_HUB_OFFLINE``, ``HF_TOKEN``, and the token of ``hf auth login``. No token is ever printed or written.
"""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.system.atomic_files import remove, sha256_file

PREFIX = "hf-hub:"
_REFERENCE = re.compile(r"hf-hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Reference:
    """``hf-hub:ORG/NAME@REVISION``; the revision is a branch, a tag or a commit, ``None`` the main branch."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """UserError where ``text`` has another form."""
        if not (match := _REFERENCE.fullmatch(text)):
            raise UserError(f"{text!r} is no hub reference: hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION")
        return cls(match["repo"], match["revision"])

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Snapshot:
    """Files of one commit in the hub's cache; ``folder`` holds them under their names."""

    repo: str
    commit: str
    folder: Path


def download(reference: Reference, first: str, then: Callable[[Path], Mapping[str, str]]) -> Snapshot:
    """Fetches ``first``, and then the files that it asks for, all of one commit, each hashed before it is used.

    Args:
        first: a small file of the repository.
        then: given its path, the other files' names with the sha256 that they must have.

    Raises:
        UserError: no such repository, revision or file, no right to see it, no network and not in the cache, a full
            disk, or bytes with another sha256 (twice; the cache then holds none of them).
    """
    from huggingface_hub import hf_hub_download

    with one_line(reference.repo, reference.revision), quiet():
        path = Path(hf_hub_download(reference.repo, first, revision=reference.revision))
        snapshot = Snapshot(reference.repo, path.parent.name, path.parent)
        for name, sha256 in then(path).items():
            file = Path(hf_hub_download(reference.repo, name, revision=snapshot.commit))
            if sha256_file(file) != sha256:  # a damaged cache, or a damaged answer: a new one may be right
                _forget(file)
                file = Path(hf_hub_download(reference.repo, name, revision=snapshot.commit))
                if (found := sha256_file(file)) != sha256:
                    _forget(file)
                    raise UserError(
                        f"{name} of {reference} has sha256 {found[:12]}..., its {first} says {sha256[:12]}...: "
                        "not used, and removed from the cache; tell the owner of the repository"
                    )
    return snapshot


def _forget(file: Path) -> None:
    """Out of the cache: the content and the link to it."""
    remove(file.resolve())
    remove(file)


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines of the library, and progress bars on a terminal only: an error is one line, ours."""
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    level, silent = get_verbosity(), are_progress_bars_disabled()
    set_verbosity(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        set_verbosity(level)
        if not silent:
            enable_progress_bars()


@contextmanager
def one_line(repo: str, revision: str | None) -> Iterator[None]:
    """What can go wrong out there as a UserError that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the library's exceptions, its HTTP client's and the system's share no base class
        if (line := advice(error, repo, revision)) is None:
            raise
        raise UserError(line) from None


def advice(error: BaseException, repo: str, revision: str | None) -> str | None:
    """The line for the user; ``None`` for an error that nobody foresaw."""
    from huggingface_hub import constants, errors

    chain = _chain(error)
    where = constants.ENDPOINT
    for cause in chain:
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return f"{repo} is not complete in the cache and HF_HUB_OFFLINE is set: unset it, or load it once without"
        if isinstance(cause, errors.GatedRepoError):
            return f"{repo} asks for permission: request it on {where}/{repo}, then set HF_TOKEN or run `hf auth login`"
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"{repo} has no revision {revision!r}: a branch, a tag or a commit of {where}/{repo}"
        if isinstance(cause, errors.RemoteEntryNotFoundError):
            return f"{where}/{repo} is no model of this zoo: it has no {str(cause.response.url).rsplit('/', 1)[-1]}"
        if isinstance(cause, errors.HFValidationError):
            return f"{repo!r} is no repository name: ORG/NAME, of letters, digits, '-', '_' and '.'"
        if isinstance(cause, errors.HfHubHTTPError):
            return _by_status(cause, repo, where)
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"disk full while downloading {repo}: free space in {constants.HF_HUB_CACHE} and run it again"
        if isinstance(cause, PermissionError):
            return f"cannot write {cause.filename}: allow it, or set HF_HOME to another folder"
    if any(isinstance(cause, errors.LocalEntryNotFoundError) or _is_network(cause) for cause in chain):
        return f"no connection to {where}, and {repo} is not complete in the cache: check the network and run it again"
    if any(isinstance(cause, OSError) and "Consistency check failed" in str(cause) for cause in chain):
        return f"{where} sent a part of a file of {repo} only: nothing of it was kept, run it again"
    return None


def _by_status(error: Any, repo: str, where: str) -> str:
    status = error.response.status_code
    if status == 401 and "Invalid credentials" in error.response.headers.get("X-Error-Message", ""):
        return f"{where} does not know this token: set HF_TOKEN to a valid one, or run `hf auth login`"
    if status in (401, 404):
        return f"no {repo} on {where} that you may use: check the name; private ones and writing need HF_TOKEN"
    if status == 403:
        return f"this token may not do that with {repo}: it needs write permission for {repo.partition('/')[0]}"
    if status in (409, 412):
        return f"{repo} was changed by somebody else meanwhile, and nothing was published: run the same command again"
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        return f"{where} limits your rate: run it again in {f'{wait} s' if wait else 'a few minutes'}, or set HF_TOKEN"
    if status >= 500:
        return f"{where} fails with status {status}: what was live there stays live, run it again later"
    return f"{where} refuses the request for {repo} with status {status}"


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and what caused it."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def _is_network(error: BaseException) -> bool:
    """An error of the HTTP client that huggingface_hub uses (httpx, its successor, or requests), or of the socket."""
    client = type(error).__module__.partition(".")[0]
    return isinstance(error, ConnectionError | TimeoutError) or client in ("httpx", "httpx2", "httpcore", "requests")
