"""Upload a folder to the model hub as one commit, download it again, and revert the commit if a file differs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from zoo.errors import UserError
from zoo.hub.hf_download import passes_with_time, quiet, require_host, require_repository, user_errors, user_message
from zoo.system.atomic_files import sha256_file

if TYPE_CHECKING:
    from huggingface_hub import (
        CommitOperationAdd,
        CommitOperationCopy,
        CommitOperationDelete,
        HfApi,
        ModelInfo,
        SpaceInfo,
    )


T = TypeVar("T")
Kind = Literal["model", "space"]

_WAITS = (1.0, 2.0, 4.0)  # seconds between the attempts of a request
_MAX_WAIT = 30.0  # seconds, of what the hub asks for


@dataclass(frozen=True)
class Uploaded:
    """The live revision after an upload."""

    repo: str
    commit: str
    url: str
    files: int


@dataclass(frozen=True)
class _Commit:
    """The commit of this run, and the commit before it with its files.

    ``certain`` is False if the hub's answer to the commit was lost, and the commit was found on the branch: it may be
    somebody else's.
    """

    repo: str
    revision: str | None
    sha: str
    before: str
    files_before: frozenset[str]
    changed: tuple[str, ...]
    certain: bool = True
    kind: Kind = "model"


def require_upload(repo: str) -> None:
    """Check what an upload needs that this machine can tell, before the long work for it.

    Raises:
        UserError: the hub's host is not known (``require_host``), the network is forbidden, or there is no token.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{repo} cannot be written while HF_HUB_OFFLINE is set: unset it")
    require_host(repo)
    if get_token() is None:
        raise UserError(
            f"no token for {constants.ENDPOINT}: set HF_TOKEN to one that may write, or run `hf auth login`"
        )


def upload(
    folder: Path,
    repo: str,
    *,
    message: str,
    private: bool = False,
    revision: str | None = None,
    owned: Sequence[str],
    merge: Mapping[str, Callable[[str], str]] | None = None,
    kind: Kind = "model",
) -> Uploaded:
    """Upload the files of ``folder`` to ``repo`` in one commit, then download and hash them.

    The old revision stays live until the commit is made, and the commit is refused if somebody else's came in between.
    If the hub returns other bytes, a second commit restores the old files, unless somebody else has committed by then.
    What fails for a moment is tried again, four times in all. If the answer to the commit is lost, the hub is asked
    whether it was made.

    Args:
        repo: ``ORG/NAME``, created if it does not exist.
        message: commit message.
        private: create a new repository as private.
        revision: a branch, created if it does not exist; ``None`` is the main branch.
        owned: files that are deleted from the repository if ``folder`` lacks them.
        merge: by the name of a text file, what makes the text to upload from the one on the hub; it may refuse. The
            file in ``folder`` is replaced by it.
        kind: a model, or a static Space.

    Raises:
        UserError: as ``zoo.hub.hf_download.download``; or the token has no write permission; or ``private`` is set and
            the repository is public; or the hub does not return the bytes that were sent (the message says which
            revision is live then).
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

    # Refuse a malformed name before the hub is asked.
    require_repository(repo)
    api = HfApi()
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [p.relative_to(folder).as_posix() for p in paths]
    require_host(repo)
    with user_errors(repo, revision), quiet():
        # the repository, and its state before the commit
        sdk = "static" if kind == "space" else None
        _retried(lambda: api.create_repo(repo, repo_type=kind, space_sdk=sdk, private=private, exist_ok=True))
        if revision:
            _retried(lambda: api.create_branch(repo, repo_type=kind, branch=revision, exist_ok=True))
        before = _info(api, repo, revision, kind)
        if private and not before.private:
            raise UserError(f"{repo} exists and is public: publish without --private, or make it private on the hub")
        there = {s.rfilename for s in before.siblings or []}
        gone = [n for n in owned if n in there and n not in names]
        for name, made in (merge or {}).items():
            if name in there:
                text = made(_text_on_hub(repo, name, before.sha or "", kind))
                (folder / name).write_text(text, encoding="utf-8", newline="\n")
        # one commit that adds and deletes
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(n, str(p)) for n, p in zip(names, paths, strict=True)),
            *(CommitOperationDelete(n) for n in gone),
        ]
        sha, certain = _made_commit(api, repo, operations, message, revision, before.sha or "", kind)
        # the comparison
        commit = _Commit(repo, revision, sha, before.sha or "", frozenset(there), (*names, *gone), certain, kind)
        _compare(api, commit, folder, names)
        _require_live(api, commit)
    place = f"spaces/{repo}" if kind == "space" else repo
    return Uploaded(repo, sha, f"{constants.ENDPOINT}/{place}", len(names))


def _text_on_hub(repo: str, name: str, commit: str, kind: Kind) -> str:
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory() as fresh:
        file = Path(_retried(lambda: hf_hub_download(repo, name, repo_type=kind, revision=commit, cache_dir=fresh)))
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{name} of {repo} is not UTF-8: save it so on the hub, and publish again") from None


def _info(api: HfApi, repo: str, revision: str | None, kind: Kind) -> ModelInfo | SpaceInfo:
    if kind == "space":
        return _retried(lambda: api.space_info(repo, revision=revision))
    return _retried(lambda: api.model_info(repo, revision=revision))


def _retried(call: Callable[[], T]) -> T:
    """Return what ``call`` returns; it is repeated while it fails for reasons that pass with time."""
    for wait in _WAITS:
        try:
            return call()
        except Exception as error:  # the hub's, its client's and the system's share no base class
            if not passes_with_time(error):
                raise
            time.sleep(max(wait, _asked_to_wait(error)))
    return call()


def _asked_to_wait(error: BaseException) -> float:
    """Return the seconds of ``Retry-After``, within a bound."""
    response = getattr(error, "response", None)
    asked = str(response.headers.get("Retry-After", "")) if response is not None else ""
    return min(float(asked), _MAX_WAIT) if asked.isascii() and asked.isdecimal() else 0.0


def _made_commit(
    api: HfApi,
    repo: str,
    operations: Sequence[CommitOperationAdd | CommitOperationDelete],
    message: str,
    revision: str | None,
    before: str,
    kind: Kind,
) -> tuple[str, bool]:
    """Commit, and return the commit's hash and whether it is certain that this run made it.

    A commit whose answer is lost, cut off or no answer of a hub may have been made all the same: sending it again
    would fail as somebody else's change, and saying that nothing was published could be wrong. So the branch is asked
    first, and the commit is repeated only if the branch has not moved.
    """
    for wait in (*_WAITS, None):
        try:
            done = api.create_commit(
                repo, operations, repo_type=kind, commit_message=message, revision=revision, parent_commit=before
            )
            return done.oid, True
        except Exception as error:  # see ``_retried``
            response = getattr(error, "response", None)
            if response is not None and not passes_with_time(error):
                raise  # the hub refused it
            if (live := _live(api, repo, revision, before, error, kind)) != before:
                return live, False
            if wait is None or not passes_with_time(error):
                raise
            time.sleep(max(wait, _asked_to_wait(error)))
    raise AssertionError("the last attempt returns or raises")


def _live(api: HfApi, repo: str, revision: str | None, before: str, lost: Exception, kind: Kind) -> str:
    """Return the commit of the branch after a commit whose answer was lost.

    Raises:
        UserError: the hub does not tell.
    """
    try:
        return _info(api, repo, revision, kind).sha or ""
    except Exception as error:
        if user_message(error, repo, revision) is None:
            raise
        why = (user_message(lost, repo, revision) or type(lost).__name__).partition(": ")[0]
        raise UserError(
            f"{why}, and whether {repo} was changed is not known: run the same command again, which compares it "
            f"(before it was {before[:12]})"
        ) from None


def _require_live(api: HfApi, commit: _Commit) -> None:
    """Raise UserError where the hub has the commit, and still serves the one before."""
    lost = UserError("the hub could not be asked afterwards")
    live = _live(api, commit.repo, commit.revision, commit.before, lost, commit.kind)
    if live == commit.before != commit.sha:
        raise UserError(
            f"{commit.repo} has the commit {commit.sha[:12]}, but still serves {commit.before[:12]}: nothing was "
            "published, run the same command again"
        )


def _compare(api: HfApi, commit: _Commit, folder: Path, names: Sequence[str]) -> None:
    """Download the commit and compare it with ``folder``; a commit with other bytes is reverted.

    Raises:
        UserError: the comparison failed or found another file.
    """
    # Read the commit back from the hub.
    try:
        different = _first_difference(api, commit, folder, names)
    except Exception as error:  # see ``user_errors``, whose messages do not say that the commit is live
        if (reason := _reason(error, commit)) is None:
            raise
        raise UserError(
            f"{commit.repo} is at commit {commit.sha[:12]} now, but could not be compared with what was sent: run the "
            f"same command again to compare it (before it was {commit.before[:12]}; {reason})"
        ) from None
    # Nothing differs: the upload is good.
    if different is None:
        return
    # A commit that may be somebody else's is not taken back.
    if not commit.certain:
        raise UserError(
            f"the answer to the commit was lost, and {commit.repo} is at {commit.sha[:12]} now, whose {different} is "
            f"not what was sent: if that is nobody else's, restore {commit.before[:12]} on the hub, or publish again"
        )
    # Say what is live now, and take it back where something else was live before.
    damaged = f"{commit.repo} does not give back the {different} that was sent (commit {commit.sha[:12]})"
    if commit.sha == commit.before:
        raise UserError(f"{damaged}, and it was live already, unchanged by this run: delete it there, publish again")
    raise UserError(f"{damaged}{_revert(api, commit)}")


def _first_difference(api: HfApi, commit: _Commit, folder: Path, names: Sequence[str]) -> str | None:
    """Return the first file that the hub returns with other bytes, or has although it was deleted."""
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory() as fresh:
        for name in names:
            download = partial(
                hf_hub_download, commit.repo, name, repo_type=commit.kind, revision=commit.sha, cache_dir=fresh
            )
            file = Path(_retried(download))
            if sha256_file(file) != sha256_file(folder / name):
                return name
            file.resolve().unlink()  # needs the disk for one file at a time
    if deleted := set(commit.changed).difference(names):
        there = _info(api, commit.repo, commit.sha, commit.kind).siblings or []
        return min(deleted.intersection(file.rfilename for file in there), default=None)
    return None


def _revert(api: HfApi, commit: _Commit) -> str:
    """Restore the old files with one commit on top of ``commit``; returns the outcome, as the end of a message."""
    from huggingface_hub import CommitOperationCopy, CommitOperationDelete, errors

    # Give each changed file the content that it had before.
    operations: list[CommitOperationCopy | CommitOperationDelete] = [
        CommitOperationCopy(name, name, src_revision=commit.before)
        if name in commit.files_before
        else CommitOperationDelete(name)
        for name in commit.changed
    ]
    message = f"Take back {commit.sha[:12]}: it came back damaged"
    by_hand = f"restore {commit.before[:12]} on the hub, or publish again"
    # Commit the old files, and check that they are back.
    try:
        new = api.create_commit(
            commit.repo,
            operations,
            repo_type=commit.kind,
            commit_message=message,
            revision=commit.revision,
            parent_commit=commit.sha,
        )
        if _blobs(api, commit, new.oid) != _blobs(api, commit, commit.before):
            return f" and is live; taking it back did not restore what was there before: {by_hand}"
    except Exception as error:  # whatever fails, the message must say what is live
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (409, 412):
            return f", and somebody else has committed since, so nothing was taken back: look at it, and {by_hand}"
        reason = _reason(error, commit) or type(error).__name__
        return f" and is live; it could not be taken back ({reason}): {by_hand}"
    return f": the files of {commit.before[:12]}, live before, are live again (commit {new.oid[:12]}): publish again"


def _reason(error: Exception, commit: _Commit) -> str | None:
    """Return the first half of the user's message; the second gives advice for a repository that is still unchanged."""
    message = user_message(error, commit.repo, commit.revision)
    return message and message.partition(": ")[0]


def _blobs(api: HfApi, commit: _Commit, revision: str) -> dict[str, str]:
    """Return git's hash of each file of a commit."""
    from huggingface_hub import RepoFile

    tree = api.list_repo_tree(commit.repo, repo_type=commit.kind, recursive=True, revision=revision)
    return {entry.path: entry.blob_id for entry in tree if isinstance(entry, RepoFile)}
