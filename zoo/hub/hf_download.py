"""The Hugging Face hub: references, downloads of one revision of a repository, and its errors as messages for users.

Only this module and ``hf_upload.py`` use huggingface_hub's network functions.

The hub's ordinary cache and variables apply: ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``,
``HF_TOKEN``, and the token of ``hf auth login``. No token is ever printed or written.
"""

from __future__ import annotations

import hashlib
import logging
import re
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from zoo.errors import UserError
from zoo.system.atomic_files import FULL, REFUSED, remove, sha256_file
from zoo.system.verbosity import note

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

PREFIX = "hf-hub:"
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 1 << 20  # of the first file, which lists the others
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_NO_CONNECTION = "no connection to {where}, and {repo} is not complete in the cache: check the network and run it again"
_NO_NAME = "{repo!r} is not a repository name: ORG/NAME, of letters, digits, '-', '_' and '.'"
_REFERENCE = re.compile(r"hf-hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Reference:
    """``hf-hub:ORG/NAME@REVISION``; the revision is a branch, a tag or a commit, and ``None`` is the main branch."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse such a reference. Raises UserError where ``text`` has another form."""
        if not (match := _REFERENCE.fullmatch(text)):
            raise UserError(f"{text!r} is not a hub reference: hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION")
        return cls(match["repo"], match["revision"])

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Snapshot:
    """Files of one commit in the hub's cache; ``folder`` holds them under their names in the repository."""

    repo: str
    commit: str
    folder: Path


def download(reference: Reference, first: str, then: Callable[[Path], Mapping[str, str]]) -> Snapshot:
    """Download a file of a repository, then the files that it lists, all of one commit, and verify their hashes.

    Args:
        first: name of the first file.
        then: maps the path of the first file to the names and sha256 hashes of the others.

    Raises:
        UserError: the repository, revision or file does not exist or may not be read, there is no network and the cache
            lacks a file, the disk is full, or a file has another hash twice (it is then removed from the cache).
    """
    from huggingface_hub import constants, hf_hub_download

    with user_errors(reference.repo, reference.revision), quiet():
        # The first file tells the commit, which all others must come from.
        path = _first_file(reference, first)
        if not _is_what_the_cache_names(path):  # altered in the cache, or on its way: download once more
            _remove_from_cache(path)
            path = Path(hf_hub_download(reference.repo, first, revision=reference.revision))
            if not _is_what_the_cache_names(path):
                _remove_from_cache(path)
                raise UserError(f"{constants.ENDPOINT} sent another {first} of {reference} than it names: run it again")
        snapshot = Snapshot(reference.repo, path.parent.name, path.parent)
        # Compare each file with the hash that the first one states.
        for name, sha256 in then(path).items():
            file = Path(hf_hub_download(reference.repo, name, revision=snapshot.commit))
            if sha256_file(file) != sha256:  # the cache or the answer is damaged: download once more
                _remove_from_cache(file)
                file = Path(hf_hub_download(reference.repo, name, revision=snapshot.commit))
                if (found := sha256_file(file)) != sha256:
                    _remove_from_cache(file)
                    raise UserError(
                        f"{name} of {reference} has sha256 {found[:12]}..., its {first} says {sha256[:12]}...: "
                        "not used, and removed from the cache; tell the owner of the repository"
                    )
    return snapshot


def _first_file(reference: Reference, first: str) -> Path:
    """Return the first file, of the newest commit of the reference's branch, or of its tag or commit.

    huggingface_hub takes the cache's older commit in silence where the hub does not answer, so the hub is asked here.

    Raises:
        UserError: the file is too large to be one that lists others.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub import try_to_load_from_cache as find

    repo, revision = reference.repo, reference.revision
    cached = find(repo, first, revision=revision)
    here = Path(cached) if isinstance(cached, str) else None
    if here is None:
        require_host(repo)
    # The cache is enough where the network is forbidden, and for a commit, which never changes.
    if not constants.HF_HUB_OFFLINE and (here is None or here.parent.name != revision):
        try:
            told = get_hf_file_metadata(hf_hub_url(repo, first, revision=revision))
            reason = None if told.commit_hash and told.etag else f"{constants.ENDPOINT} does not answer as a model hub"
            if (told.size or 0) > _MOST_BYTES:
                raise UserError(f"{first} of {reference} has {told.size:,} bytes, more than the config of a model")
        except (UserError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
            raise
        except Exception as error:  # see ``user_errors``
            reason = (user_message(error, repo, revision) or "").partition(": ")[0].partition(", and ")[0]
            if here is None and any(type(cause).__name__ == "ConnectError" for cause in _causes(error)):
                raise  # the client would try for half a minute
        if here is not None and reason:
            note(f"{reference} is of the cache, commit {here.parent.name[:12]}, perhaps not the newest: {reason}")
            return here
    return Path(hf_hub_download(repo, first, revision=revision))


def require_repository(name: str) -> None:
    """Check a name of a repository by the hub's rules, before a long work for it. Raises UserError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if Reference.parse(PREFIX + name).revision is not None:
        raise UserError(f"{name!r} names a revision, too: give ORG/NAME, and --revision for a branch")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(_NO_NAME.format(repo=name)) from None


def require_host(repo: str) -> None:
    """Check the hub's address, and that this machine knows its host; else huggingface_hub asks for half a minute.

    Behind a proxy, which may know names that this machine does not, and where the network is forbidden, nothing is
    checked.

    Raises:
        UserError: ``HF_ENDPOINT`` is no address, or the name of the host cannot be resolved.
    """
    from huggingface_hub import constants

    try:
        address = urlsplit(constants.ENDPOINT)
        host, _ = address.hostname, address.port  # ValueError: a port out of range, or brackets that stay open
    except ValueError:
        host = None
    if host is None or address.scheme not in ("http", "https"):
        raise UserError(f"HF_ENDPOINT is {constants.ENDPOINT!r}: give the address of a model hub, as https://HOST")
    if getproxies() or constants.HF_HUB_OFFLINE:
        return
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        raise UserError(_NO_CONNECTION.format(where=constants.ENDPOINT, repo=repo)) from None


def _is_what_the_cache_names(file: Path) -> bool:
    """Return whether a file has the hash by which the cache names its content; True where that name is no hash.

    The hub's name is the sha256 of large files and git's hash of others. Proxies are known that give the plain sha1.
    """
    name = file.resolve().name
    if _SHA256.fullmatch(name):
        return sha256_file(file) == name
    if not _SHA1.fullmatch(name):
        return True
    data = file.read_bytes()
    return name in (hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), hashlib.sha1(data).hexdigest())


def _remove_from_cache(file: Path) -> None:
    """Remove the content and the link to it."""
    remove(file.resolve())
    remove(file)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's log, and show its progress bars on a terminal only; errors are printed by the caller."""
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    # Keep the caller's settings to restore them.
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
def user_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Turn the hub's, the network's and the disk's failures inside the block into UserErrors."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the library's exceptions, its HTTP client's and the system's share no base class
        if (message := user_message(error, repo, revision)) is None:
            raise
        raise UserError(message) from None


def user_message(error: BaseException, repo: str, revision: str | None) -> str | None:
    """Return the message for the user; ``None`` for an unexpected error."""
    from huggingface_hub import constants, errors

    causes = _causes(error)
    where = constants.ENDPOINT
    # Look for the most telling cause in the chain.
    for cause in causes:
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return f"{repo} is not complete in the cache and HF_HUB_OFFLINE is set: unset it, or load it once without"
        if isinstance(cause, errors.GatedRepoError):
            return f"{repo} asks for permission: request it on {where}/{repo}, then set HF_TOKEN or run `hf auth login`"
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"{repo} has no revision {revision!r}: a branch, a tag or a commit of {where}/{repo}"
        if isinstance(cause, errors.RemoteEntryNotFoundError):
            return f"{where}/{repo} is not a model of this zoo: it has no {str(cause.response.url).rsplit('/', 1)[-1]}"
        if isinstance(cause, errors.HFValidationError):
            return _NO_NAME.format(repo=repo)
        if isinstance(cause, errors.HfHubHTTPError):
            return _message_for_status(cause, repo, where)
        if isinstance(cause, UnicodeEncodeError):  # of a header
            return "HF_TOKEN holds characters that no token has: set it again, or run `hf auth login`"
        if isinstance(cause, OSError) and cause.errno in FULL:
            return f"disk full while downloading {repo}: free space in {constants.HF_HUB_CACHE} and run it again"
        if isinstance(cause, OSError) and cause.errno in REFUSED and cause.filename is not None:
            return f"cannot write {cause.filename}: allow it, or set HF_HOME to another folder"
    # No cause names the problem itself, so look for signs of a broken connection.
    if any(isinstance(cause, errors.LocalEntryNotFoundError) or _is_network(cause) for cause in causes):
        return _NO_CONNECTION.format(where=where, repo=repo)
    if any(isinstance(cause, OSError) and "Consistency check failed" in str(cause) for cause in causes):
        return f"{where} sent only a part of a file of {repo}: nothing was kept, run it again"
    if isinstance(error, _MALFORMED) and _is_of_the_client(error):
        return f"{where} does not answer as a model hub: sign in to the network if it asks for that, see HF_ENDPOINT"
    return None


def passes_with_time(error: BaseException) -> bool:
    """Return whether the same request may succeed later: the network failed, or the hub is busy or broken."""
    from huggingface_hub import errors

    for cause in _causes(error):
        if isinstance(cause, errors.HfHubHTTPError):
            status = cause.response.status_code
            return status in (408, 429) or status >= 500
    return any(_is_network(cause) for cause in _causes(error))


def _is_of_the_client(error: BaseException) -> bool:
    """Return whether an error was raised while huggingface_hub read an answer."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__", "")).startswith("huggingface_hub") for frame, _ in frames)


def _message_for_status(error: HfHubHTTPError, repo: str, where: str) -> str:
    status = error.response.status_code
    # Failures of the token or of its permissions.
    if status == 401 and "Invalid credentials" in error.response.headers.get("X-Error-Message", ""):
        return f"{where} does not know this token: set HF_TOKEN to a valid one, or run `hf auth login`"
    if status in (401, 404):
        return f"no {repo} on {where} that you may use: check the name; private ones and writing need HF_TOKEN"
    if status == 403:
        return f"this token may not do that with {repo}: it needs write permission for {repo.partition('/')[0]}"
    # Failures that pass with time.
    if status in (409, 412):
        return f"{repo} was changed by somebody else meanwhile, and nothing was published: run the same command again"
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        return f"{where} limits your rate: run it again in {f'{wait} s' if wait else 'a few minutes'}, or set HF_TOKEN"
    if status >= 500:
        return f"{where} fails with status {status}: the live revision stays live, run it again later"
    return f"{where} refuses the request for {repo} with status {status}"


def _causes(error: BaseException) -> list[BaseException]:
    """Return the exception followed by its causes."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _is_network(error: BaseException) -> bool:
    """True for an error of huggingface_hub's HTTP client (httpx, its successor, or requests) or of the socket."""
    client = type(error).__module__.partition(".")[0]
    return isinstance(error, ConnectionError | TimeoutError) or client in ("httpx", "httpx2", "httpcore", "requests")
