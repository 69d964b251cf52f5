"""The real client against a hub that answers wrongly, at each request of an upload, and a cache that was altered."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_model import REPO, WEIGHTS, download, make_folder, upload
from hub_server import WRITE_TOKEN, Fault, HubServer
from huggingface_hub import constants

from zoo.errors import UserError
from zoo.hub.hf_upload import Uploaded

FAULTS: dict[str, dict[str, Any]] = {
    "a page to sign in": {"change": lambda _: b"<!doctype html><html>Sign in to the network</html>"},
    "nothing": {"change": lambda _: b""},
    "null": {"change": lambda _: b"null"},
    "an object without keys": {"change": lambda _: b"{}"},
    "deep brackets": {"change": lambda _: b"[" * 100_000},
    "wrong bytes": {"change": lambda data: data[:-1] + b"?"},
    "half": {"cut": 10},
    "no answer": {"cut": 0},
    "a redirect to nowhere": {"status": 302, "headers": {"Location": "http://127.0.0.1:9/x"}},
    "500": {"status": 500},
    "429": {"status": 429, "headers": {"Retry-After": "7"}},
}
REQUESTS = [
    "POST /api/repos/create",
    "POST .*/branch/",
    "GET /api/models/org/model",
    "POST /api/validate-yaml",
    "POST .*/preupload",
    "POST .*/batch",
    "PUT /lfs",
    "POST /verify",
    "POST .*/commit/",
    "HEAD .*/resolve/",
    "GET .*/config.json",
    "GET /cdn/",
]


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CASES = {f"{name}, always": fault for name, fault in FAULTS.items()} | {
    f"{name}, once": {**FAULTS[name], "times": 1} for name in ("wrong bytes", "half", "no answer")
}


@pytest.mark.parametrize("fault", CASES.values(), ids=CASES)
@pytest.mark.parametrize("request_", REQUESTS)
def test_what_is_live_is_what_is_said(
    hub: HubServer, published: Uploaded, tmp_path: Path, request_: str, fault: dict[str, Any]
) -> None:
    """Either it worked, and the hub has what was sent; or one line says why, and what is live then."""
    folder = make_folder(tmp_path / "new", b"new" * 99)
    before = dict(hub.repositories[REPO].find("main").files)
    hub.faults.append(Fault(request_, **fault))
    said = ""
    try:
        done = upload(folder, revision="main" if "branch" in request_ else None)
    except UserError as error:
        said = str(error)
    live, files = hub.repositories[REPO].branches["main"], hub.repositories[REPO].find("main").files
    if not said:
        assert done.commit == live
        assert {name: files[name] for name in files_in(folder)} == files_in(folder)
        return
    assert "\n" not in said
    assert WRITE_TOKEN not in said
    if live == published.commit:
        assert live not in said or "live" in said
    elif files == before:
        assert f"are live again (commit {live[:12]})" in said
    else:
        assert f"is at commit {live[:12]} now" in said or "and is live" in said or "is not known" in said
    # What passes with time is tried again, within a bound.
    assert sum(hub.waits) < 600
    hub.faults.clear()
    assert upload(folder).commit == hub.repositories[REPO].branches["main"]


RETRIED = ["POST /api/repos/create", "GET /api/models/org/model", "PUT /lfs", "POST .*/commit/", "GET /cdn/"]


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("request_", RETRIED)
def test_a_busy_hub_is_asked_again(
    hub: HubServer, published: Uploaded, tmp_path: Path, request_: str, status: int
) -> None:
    hub.faults.append(Fault(request_, times=2, status=status, headers={"Retry-After": "3"}))
    done = upload(make_folder(tmp_path / "new", b"new" * 99))
    assert done.commit == hub.repositories[REPO].branches["main"] != published.commit
    assert max(hub.waits) >= 2


@pytest.mark.parametrize(
    "lost", [{"cut": 0}, {"cut": 20}, {"change": lambda _: b"<html>"}], ids=["none", "half", "html"]
)
def test_a_commit_whose_answer_is_lost_is_found_and_compared(
    hub: HubServer, published: Uploaded, tmp_path: Path, lost: dict[str, Any]
) -> None:
    """It was said that nothing was published, or somebody else's change, while the new files were live."""
    hub.faults.append(Fault("POST .*/commit/", **lost))
    folder = make_folder(tmp_path / "new", b"new" * 99)
    done = upload(folder)
    assert done.commit == hub.repositories[REPO].branches["main"] != published.commit
    assert hub.count("POST .*/commit/") == 1
    assert hub.repositories[REPO].find("main").files["model.safetensors"] == b"new" * 99


def test_a_hub_that_dies_after_the_commit(hub: HubServer, published: Uploaded, tmp_path: Path) -> None:
    """Nobody can know what is live, and that is what is said; the same command finds out."""

    def commit_and_die(data: bytes) -> bytes:
        hub.faults.append(Fault(".*", cut=0))
        return data

    for lost in (False, True):
        folder = make_folder(tmp_path / f"new{lost}", b"new" * (99 + lost))
        hub.faults.append(Fault("POST .*/commit/", times=1, change=commit_and_die, cut=0 if lost else None))
        with pytest.raises(UserError) as error:
            upload(folder)
        live = hub.repositories[REPO].branches["main"]
        assert live != published.commit
        expected = "is not known" if lost else f"is at commit {live[:12]} now, but could not be compared"
        assert expected in str(error.value)
        hub.faults.clear()
        assert upload(folder).commit == live


def test_somebody_else_s_commit_at_the_moment_of_a_lost_answer(
    hub: HubServer, published: Uploaded, tmp_path: Path
) -> None:
    """It is neither taken for this run's nor taken back."""
    repository = hub.repositories[REPO]

    def theirs(data: bytes) -> bytes:
        repository.add("main", repository.commits[published.commit].files | {"model.safetensors": b"theirs"})
        return data

    hub.faults.append(Fault("POST .*/commit/", times=1, change=theirs, cut=0))
    with pytest.raises(UserError, match=r"whose config\.json is not what was sent: if that is nobody else's"):
        upload(make_folder(tmp_path / "new", b"new" * 99))
    assert repository.find("main").files["model.safetensors"] == b"theirs"


def test_a_commit_that_the_branch_does_not_get(hub: HubServer, published: Uploaded, tmp_path: Path) -> None:
    """All files come back under the commit, and the branch still serves the old ones: nothing was published."""

    def stays(data: bytes) -> bytes:
        hub.repositories[REPO].branches["main"] = published.commit
        return data

    hub.faults.append(Fault("POST .*/commit/", change=stays))
    with pytest.raises(UserError, match=f"still serves {published.commit[:12]}: nothing was published"):
        upload(make_folder(tmp_path / "new", b"new" * 99))


def test_a_file_that_stays_although_it_was_deleted_is_seen(hub: HubServer, tmp_path: Path) -> None:
    upload(make_folder(tmp_path / "a", heads=b"heads"))

    def keeps(data: bytes) -> bytes:
        files = hub.repositories[REPO].find("main").files
        files["heads.safetensors"] = b"heads"
        return data

    hub.faults.append(Fault("POST .*/commit/", times=1, change=keeps))
    with pytest.raises(UserError, match=r"does not give back the heads\.safetensors"):
        upload(make_folder(tmp_path / "b", b"other" * 99))


def altered(data: bytes) -> bytes:
    """Another config of the same length, whose hash of the weights is that of others."""
    told = json.loads(data)
    return json.dumps({"model.safetensors": told["model.safetensors"][::-1]}).encode()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "change", [lambda d: d[:-1] + b"?", lambda d: b"", lambda d: d + d], ids=["byte", "empty", "twice"]
)
def test_a_poisoned_cache_is_fetched_again(
    hub: HubServer, published: Uploaded, name: str, change: Callable[[bytes], bytes]
) -> None:
    """The name is right and the content is not; once a config was believed whatever it said."""
    blob = (download().folder / name).resolve()
    good = blob.read_bytes()
    blob.write_bytes(change(good))
    assert (download().folder / name).read_bytes() == good


def test_a_poisoned_config_with_weights_to_match_is_fetched_again(hub: HubServer, published: Uploaded) -> None:
    folder = download().folder
    config, weights = ((folder / name).resolve() for name in ("config.json", "model.safetensors"))
    weights.write_bytes(b"other")
    config.write_bytes(altered(config.read_bytes()))
    assert (download().folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_poisoned_cache_without_a_network_is_one_line(
    hub: HubServer, published: Uploaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (download().folder / "config.json").resolve()
    config.write_bytes(altered(config.read_bytes()))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="is not complete in the cache") as error:
        download()
    assert "\n" not in str(error.value)
    assert not os.path.exists(config)


def test_another_config_than_the_hub_names_is_not_used(hub: HubServer, published: Uploaded) -> None:
    hub.faults.append(Fault("GET .*/config.json", change=lambda data: data[:-1] + b" "))
    with pytest.raises(UserError, match=r"sent another config\.json of hf-hub:org/model than it names"):
        download()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("request_", ["HEAD .*/resolve/", "GET .*/config.json", "GET /cdn/"])
def test_a_download_is_right_or_one_line(
    hub: HubServer, published: Uploaded, request_: str, fault: dict[str, Any]
) -> None:
    hub.faults.append(Fault(request_, **fault))
    said = ""
    try:
        found = download()
    except UserError as error:
        said = str(error)
    if said:
        assert "\n" not in said
        hub.faults.clear()
        found = download()
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
