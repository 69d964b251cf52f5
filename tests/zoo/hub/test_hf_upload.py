"""Uploads with the real hub client over HTTP: one commit, compared with what comes back, taken back if it differs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hub_model import REPO, WEIGHTS, download, make_folder, upload
from hub_server import READ_TOKEN, WRITE_TOKEN, Fault, HubServer

from zoo.errors import UserError
from zoo.hub.hf_upload import Uploaded


def test_what_was_uploaded_comes_back_under_its_commit(hub: HubServer, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder")
    done = upload(folder)
    assert done.files == 4
    assert hub.count("POST .*/commit/") == 1
    found = download()
    assert (found.repo, found.commit) == (REPO, done.commit)
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.repositories[REPO].find("main").files[".eval_results/knn.yaml"] == b"- value: 1\n"


def test_a_second_upload_is_one_commit_without_the_files_that_are_gone(hub: HubServer, tmp_path: Path) -> None:
    upload(make_folder(tmp_path / "a", heads=b"heads"))
    hub.repositories[REPO].find("main").files["NOTES.md"] = b"somebody's own"
    done = upload(make_folder(tmp_path / "b", b"other" * 99))
    files = hub.repositories[REPO].find("main").files
    assert "heads.safetensors" not in files
    assert files["NOTES.md"] == b"somebody's own"
    assert hub.count("POST .*/commit/") == 2
    assert upload(tmp_path / "b").commit == done.commit  # nothing changed: no empty commit
    assert hub.count("POST .*/commit/") == 2


def test_private_repositories(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(make_folder(tmp_path / "a"), private=True)
    assert hub.repositories[REPO].private
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    assert download().repo == REPO
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"no org/secret on .*private ones and writing need HF_TOKEN"):
        download(repo="org/secret")
    hub.repositories[REPO].private = False
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    with pytest.raises(UserError, match="exists and is public"):
        upload(tmp_path / "a", private=True)


@pytest.mark.parametrize("request_", ["POST .*/preupload", "POST .*/batch", "PUT /lfs", "POST .*/commit/"])
@pytest.mark.parametrize(("status", "message"), [(403, "write permission"), (429, "rate"), (500, "stays live")])
def test_answers_that_stop_an_upload_leave_the_old_revision(
    hub: HubServer, published: Uploaded, tmp_path: Path, request_: str, status: int, message: str
) -> None:
    hub.faults.append(Fault(request_, status=status))
    with pytest.raises(UserError, match=message):
        upload(make_folder(tmp_path / "new", b"new" * 99))
    assert hub.repositories[REPO].branches["main"] == published.commit
    hub.faults.clear()
    assert upload(tmp_path / "new").commit != published.commit


def test_a_commit_in_between_is_not_overwritten(hub: HubServer, published: Uploaded, tmp_path: Path) -> None:
    hub.faults.append(Fault("POST .*/commit/", status=412))
    with pytest.raises(UserError, match="changed by somebody else meanwhile, and nothing was published"):
        upload(make_folder(tmp_path / "new", b"new" * 99))


def test_no_token_and_a_wrong_one(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "a")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown_3c1")
    with pytest.raises(UserError, match="does not know this token") as error:
        upload(folder)
    assert "hf_unknown_3c1" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(UserError, match="needs write permission for org"):
        upload(folder)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="HF_TOKEN"):
        upload(folder)
    assert not hub.repositories


def damage(data: bytes) -> bytes:
    return data[:-1] + b"?"


@pytest.mark.parametrize(
    ("file", "answer"), [("model.safetensors", "GET /cdn/"), ("config.json", "GET .*/config.json")]
)
def test_what_comes_back_damaged_is_taken_back(
    hub: HubServer, published: Uploaded, tmp_path: Path, file: str, answer: str
) -> None:
    live = hub.repositories[REPO].find("main").files
    live["NOTES.md"] = b"somebody's own"
    live["heads.safetensors"] = b"heads"
    hub.lfs[hashlib.sha256(b"heads").hexdigest()] = b"heads"
    folder = make_folder(tmp_path / "new", b"new" * 99, other=b"not there before")
    hub.faults.append(Fault(answer, times=1, change=damage))
    with pytest.raises(UserError, match=rf"does not give back the {file} that was sent .* publish again$") as error:
        upload(folder)
    assert "\n" not in str(error.value)
    now = hub.repositories[REPO].branches["main"]
    assert f"the files of {published.commit[:12]}, live before, are live again (commit {now[:12]})" in str(error.value)
    assert hub.count("POST .*/commit/") == 2
    assert hub.repositories[REPO].find("main").files == live
    found = download()
    assert (found.commit, (found.folder / "model.safetensors").read_bytes()) == (now, WEIGHTS)
    assert upload(folder).commit == hub.repositories[REPO].branches["main"]
    assert "heads.safetensors" not in hub.repositories[REPO].find("main").files


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_new_repository_is_empty_again(hub: HubServer, tmp_path: Path, revision: str | None) -> None:
    hub.faults.append(Fault("GET /cdn/", times=1, change=damage))
    with pytest.raises(UserError, match="are live again"):
        upload(make_folder(tmp_path / "a"), revision=revision)
    assert set(hub.repositories[REPO].find(revision or "main").files) == {".gitattributes"}
    assert upload(tmp_path / "a", revision=revision).files == 4


def test_somebody_else_s_commit_is_not_taken_back(hub: HubServer, published: Uploaded, tmp_path: Path) -> None:
    repository = hub.repositories[REPO]

    def damage_while_another_commits(data: bytes) -> bytes:
        repository.add("main", repository.find("main").files | {"theirs.md": b"theirs"})
        return damage(data)

    hub.faults.append(Fault("GET /cdn/", times=1, change=damage_while_another_commits))
    with pytest.raises(UserError, match="somebody else has committed since, so nothing was taken back") as error:
        upload(make_folder(tmp_path / "new", b"new" * 99))
    assert f"restore {published.commit[:12]} on the hub" in str(error.value)
    assert repository.find("main").files["theirs.md"] == b"theirs"
    assert repository.find("main").files["model.safetensors"] == b"new" * 99


def test_a_damaged_commit_that_cannot_be_taken_back_is_told_of(
    hub: HubServer, published: Uploaded, tmp_path: Path
) -> None:
    def damage_and_fall_silent(data: bytes) -> bytes:
        hub.faults.append(Fault("POST .*/commit/", status=403))
        return damage(data)

    hub.faults.append(Fault("GET /cdn/", times=1, change=damage_and_fall_silent))
    with pytest.raises(UserError, match=r"and is live; it could not be taken back \(this token may not") as error:
        upload(make_folder(tmp_path / "new", b"new" * 99))
    assert "\n" not in str(error.value)
    assert hub.repositories[REPO].branches["main"] not in (published.commit, "")


def test_a_commit_that_cannot_be_read_back_says_so(hub: HubServer, published: Uploaded, tmp_path: Path) -> None:
    hub.faults.append(Fault("GET /cdn/", status=500))
    with pytest.raises(UserError, match=r"could not be compared with what was sent: .* fails with status 500") as error:
        upload(make_folder(tmp_path / "new", b"new" * 99))
    assert "stays live" not in str(error.value)
    assert f"is at commit {hub.repositories[REPO].branches['main'][:12]} now" in str(error.value)
    hub.faults.clear()
    assert upload(tmp_path / "new").commit == hub.repositories[REPO].branches["main"]
    hub.faults.append(Fault("GET /cdn/", times=1, change=damage))
    with pytest.raises(UserError, match="it was live already, unchanged by this run"):
        upload(tmp_path / "new")
