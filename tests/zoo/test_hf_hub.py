"""Upload and download with the real hub client over HTTP, and everything that can go wrong there."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hub_server import READ_TOKEN, WRITE_TOKEN, Fault, HubServer
from huggingface_hub import close_session, constants

from zoo import hf_hub, hf_upload
from zoo.errors import UserError
from zoo.hf_hub import Reference, Snapshot

REPO = "org/model"
WEIGHTS = b"weights" * 30_000
ROOT = Path(__file__).parents[2]
OWNED = ("model.safetensors", "heads.safetensors")


def make_folder(folder: Path, weights: bytes = WEIGHTS, **more: bytes) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    sha256 = {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    (folder / "config.json").write_text(json.dumps(sha256))
    (folder / "README.md").write_text("---\nlicense: mit\n---\ncard\n")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "knn.yaml").write_text("- value: 1\n")
    for name, data in more.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    return folder


def upload(folder: Path, **options: Any) -> hf_upload.Uploaded:
    return hf_upload.upload(folder, REPO, message="weights", owned=OWNED, **options)


def download(revision: str | None = None, repo: str = REPO) -> Snapshot:
    return hf_hub.download(Reference(repo, revision), "config.json", lambda path: json.loads(path.read_text()))


@pytest.fixture
def published(hub: HubServer, tmp_path: Path) -> hf_upload.Uploaded:
    done = upload(make_folder(tmp_path / "first"))
    hub.requests.clear()
    return done


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


def test_revisions(hub: HubServer, tmp_path: Path) -> None:
    first = upload(make_folder(tmp_path / "a"))
    second = upload(make_folder(tmp_path / "b", b"other" * 99), revision="v2")
    assert download().commit == first.commit
    assert download("v2").commit == second.commit
    pinned = download(second.commit)
    assert (pinned.folder / "model.safetensors").read_bytes() == b"other" * 99
    with pytest.raises(UserError, match=r"org/model has no revision 'v3'"):
        download("v3")


def test_every_file_is_of_the_commit_of_the_first_one(hub: HubServer, tmp_path: Path) -> None:
    """Somebody publishes between the download of config.json and of the weights."""
    old = upload(make_folder(tmp_path / "a"))
    make_folder(tmp_path / "b", b"other" * 99)

    def publish_meanwhile(path: Path) -> dict[str, str]:
        upload(tmp_path / "b")
        return json.loads(path.read_text())

    found = hf_hub.download(Reference(REPO), "config.json", publish_meanwhile)
    assert found.commit == old.commit
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS


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


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    upload(make_folder(tmp_path / "a"))
    download()
    sent = [path for _, path, headers in hub.requests if WRITE_TOKEN in headers.get("authorization", "")]
    assert any("/commit/" in path for path in sent)
    assert hub.count("GET /cdn/")
    assert not [path for path in sent if path.startswith(("/cdn/", "/lfs/"))]
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    stored = [data for c in hub.repositories[REPO].commits.values() for data in c.files.values()]
    output = capfd.readouterr()
    assert not any(WRITE_TOKEN.encode() in data for data in [*written, *stored])
    assert WRITE_TOKEN not in output.out + output.err


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 401, "headers": {"X-Error-Message": "Invalid credentials in Authorization header"}}, "this token"),
        ({"status": 401}, "no org/model on .*need HF_TOKEN"),
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "request it on .*then set HF_TOKEN"),
        ({"status": 403}, "write permission for org"),
        ({"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}}, r"is no model of this zoo: it has no config"),
        ({"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}, "no org/model on .*check the name"),
        ({"status": 429, "headers": {"Retry-After": "7"}}, "limits your rate: run it again in 7 s"),
        ({"status": 429}, "run it again in a few minutes"),
        ({"status": 500}, "fails with status 500: .*run it again later"),
        ({"status": 503}, "fails with status 503"),
        ({"status": 418}, "status 418"),
        ({"status": 200}, "no connection to|no model of this zoo"),  # a page of a portal instead of the file
    ],
    ids=lambda value: "-".join(map(str, value.values()))[:20] if isinstance(value, dict) else "",
)
def test_answers_that_stop_a_download(
    hub: HubServer, published: hf_upload.Uploaded, fault: dict[str, Any], message: str
) -> None:
    hub.faults.append(Fault("(GET|HEAD) /org/model/resolve", **fault))
    with pytest.raises(UserError, match=message) as error:
        download()
    assert "\n" not in str(error.value)
    if fault["status"] == 429 and "headers" in fault:
        assert set(hub.waits) == {8.0}  # the library waits as long as it was told, and a second more
    hub.faults.clear()
    assert download().commit == published.commit


@pytest.mark.parametrize("request_", ["POST .*/preupload", "POST .*/batch", "PUT /lfs", "POST .*/commit/"])
@pytest.mark.parametrize(("status", "message"), [(403, "write permission"), (429, "rate"), (500, "stays live")])
def test_answers_that_stop_an_upload_leave_the_old_revision(
    hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path, request_: str, status: int, message: str
) -> None:
    hub.faults.append(Fault(request_, status=status))
    with pytest.raises(UserError, match=message):
        upload(make_folder(tmp_path / "new", b"new" * 99))
    assert hub.repositories[REPO].branches["main"] == published.commit
    hub.faults.clear()
    assert upload(tmp_path / "new").commit != published.commit


def test_a_commit_in_between_is_not_overwritten(hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path) -> None:
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
    hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path, file: str, answer: str
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


def test_somebody_else_s_commit_is_not_taken_back(
    hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path
) -> None:
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
    hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path
) -> None:
    def damage_and_fall_silent(data: bytes) -> bytes:
        hub.faults.append(Fault("POST .*/commit/", status=403))
        return damage(data)

    hub.faults.append(Fault("GET /cdn/", times=1, change=damage_and_fall_silent))
    with pytest.raises(UserError, match=r"and is live; it could not be taken back \(this token may not") as error:
        upload(make_folder(tmp_path / "new", b"new" * 99))
    assert "\n" not in str(error.value)
    assert hub.repositories[REPO].branches["main"] not in (published.commit, "")


def test_a_commit_that_cannot_be_read_back_says_so(
    hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path
) -> None:
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


def test_no_network(
    hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download()
    hub.shutdown()
    hub.server_close()
    close_session()  # and with it the connections that are still open
    assert download().commit == published.commit  # what is in the cache is used
    with pytest.raises(UserError, match=r"no connection to .*org/other is not complete in the cache"):
        download(repo="org/other")
    with pytest.raises(UserError, match="no connection to"):
        upload(tmp_path / "first")


def test_offline(
    hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not complete in the cache and HF_HUB_OFFLINE is set"):
        download()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    download()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download().commit == published.commit
    assert not hub.requests
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        upload(tmp_path / "first")


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "always"])
def test_bytes_with_another_hash(hub: HubServer, published: hf_upload.Uploaded, times: int) -> None:
    fault = Fault("GET /cdn/", times=times, change=lambda data: b"\0" + data[1:])
    hub.faults.append(fault)
    if times > 1:
        with pytest.raises(UserError, match=r"model\.safetensors of hf-hub:org/model has sha256 .* not used"):
            download()
        assert not list(Path(constants.HF_HUB_CACHE).rglob("model.safetensors"))
        hub.faults.clear()
    assert (download().folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_file_that_changed_in_the_cache_is_fetched_again(hub: HubServer, published: hf_upload.Uploaded) -> None:
    file = download().folder / "model.safetensors"
    for damaged in (b"x" + WEIGHTS[1:], WEIGHTS[:-5], b""):
        file.resolve().write_bytes(damaged)
        assert (download().folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_is_taken_up_again(
    hub: HubServer, published: hf_upload.Uploaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.faults.append(Fault("GET /cdn/", times=2, cut=100_000))
    assert (download().folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [headers.get("range") for _, path, headers in hub.requests if "/cdn/" in path]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_a_full_disk(hub: HubServer, published: hf_upload.Uploaded) -> None:
    """As a full disk, a limit on the size of files makes the client's write fail half way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(WEIGHTS) // 2, limits[1]))
    try:
        with pytest.raises(UserError, match=r"disk full while downloading org/model: free space in"):
            download()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))
    assert download().commit == published.commit


def in_a_process(hub: HubServer, code: str, home: Path, **variables: str) -> subprocess.Popen[str]:
    """A process of its own, told of the hub by the variables that users set."""
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITE_TOKEN, "HF_HOME": str(home)}
    command = [sys.executable, "-c", f"from pathlib import Path\nfrom zoo import hf_hub, hf_upload\n{code}"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | environment | variables, cwd=ROOT, **piped)  # type: ignore[call-overload,no-any-return]


def wait_for(hub: HubServer, pattern: str, process: subprocess.Popen[str]) -> None:
    pause = threading.Event()
    while not hub.count(pattern):
        assert process.poll() is None, process.communicate()
        pause.wait(0.02)


@pytest.mark.parametrize("held", ["PUT /lfs/", "POST .*/commit/"])
def test_a_killed_upload_leaves_the_old_revision_live(
    hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path, held: str
) -> None:
    make_folder(tmp_path / "new", b"new" * 99)
    hub.faults.append(Fault(held, hold=threading.Event(), status=500))
    code = f"hf_upload.upload(Path({str(tmp_path / 'new')!r}), {REPO!r}, message='new', owned=())"
    process = in_a_process(hub, code, tmp_path / "home")
    wait_for(hub, held, process)
    process.kill()
    output = "".join(process.communicate())
    assert WRITE_TOKEN not in output
    assert hub.repositories[REPO].branches["main"] == published.commit
    assert (download().folder / "model.safetensors").read_bytes() == WEIGHTS
    hub.faults.clear()
    assert upload(tmp_path / "new").commit != published.commit


def test_a_killed_download_leaves_nothing_under_a_final_name(
    hub: HubServer, published: hf_upload.Uploaded, tmp_path: Path
) -> None:
    """And the next process, with the same cache, gets the whole file; the one after that needs no network."""
    fetch = "import json; s = hf_hub.download(hf_hub.Reference('org/model'), 'config.json', "
    fetch += "lambda p: json.loads(p.read_text())); print(s.commit)"
    hub.faults.append(Fault("GET /cdn/", times=1, hold=threading.Event(), status=500))
    first = in_a_process(hub, fetch, tmp_path / "home")
    wait_for(hub, "GET /cdn/", first)
    first.kill()
    first.communicate()
    assert not list((tmp_path / "home").rglob("model.safetensors"))
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        hub.requests.clear()
        process = in_a_process(hub, fetch, tmp_path / "home", **variables)
        output, errors = process.communicate()
        assert (output.strip(), errors) == (published.commit, "")
        assert bool(hub.requests) != bool(variables)
    (file,) = (tmp_path / "home").rglob("model.safetensors")
    assert file.read_bytes() == WEIGHTS


@pytest.mark.parametrize("text", ["hf-hub:model", "hf-hub:a/b/c", "hf-hub:../x", "hf-hub:a/b@", "hf-hub:a b/c"])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UserError, match=r"hf-hub:ORG/NAME|no repository name"):
        hf_hub.download(Reference.parse(text), "config.json", lambda _: {})


def test_a_file_name_cannot_leave_the_cache(hub: HubServer, published: hf_upload.Uploaded) -> None:
    for name in ("../evil", "/evil", "a/../../evil"):
        with pytest.raises((UserError, ValueError)):
            hf_hub.download(Reference(REPO), "config.json", lambda _, name=name: {name: "0" * 64})
    assert not list(Path(constants.HF_HUB_CACHE).parent.rglob("evil"))


def test_several_processes_at_once(hub: HubServer, published: hf_upload.Uploaded) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=download) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 4
    hub.requests.clear()
    assert (download().folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not hub.count("GET /cdn/")
