"""References, downloads and their cache with the real hub client over HTTP, and what can go wrong there."""

from __future__ import annotations

import json
import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest
from hub_model import REPO, WEIGHTS, download, make_folder, upload
from hub_server import WRITE_TOKEN, Fault, HubServer
from huggingface_hub import close_session, constants

from zoo.errors import UserError
from zoo.hub import hf_download
from zoo.hub.hf_download import Reference
from zoo.hub.hf_upload import Uploaded


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

    found = hf_download.download(Reference(REPO), "config.json", publish_meanwhile)
    assert found.commit == old.commit
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS


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
    assert WEIGHTS in written
    assert WEIGHTS in stored
    assert not any(WRITE_TOKEN.encode() in data for data in [*written, *stored])
    assert WRITE_TOKEN not in output.out + output.err


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 401, "headers": {"X-Error-Message": "Invalid credentials in Authorization header"}}, "this token"),
        ({"status": 401}, "no org/model on .*need HF_TOKEN"),
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "request it on .*then set HF_TOKEN"),
        ({"status": 403}, "write permission for org"),
        (
            {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}},
            r"is not a model of this zoo: it has no config",
        ),
        ({"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}, "no org/model on .*check the name"),
        ({"status": 429, "headers": {"Retry-After": "7"}}, "limits your rate: run it again in 7 s"),
        ({"status": 429}, "run it again in a few minutes"),
        ({"status": 500}, "fails with status 500: .*run it again later"),
        ({"status": 503}, "fails with status 503"),
        ({"status": 418}, "status 418"),
        ({"status": 200}, "no connection to|not a model of this zoo"),  # a page of a portal instead of the file
    ],
    ids=lambda value: "-".join(map(str, value.values()))[:20] if isinstance(value, dict) else "",
)
def test_answers_that_stop_a_download(hub: HubServer, published: Uploaded, fault: dict[str, Any], message: str) -> None:
    hub.faults.append(Fault("(GET|HEAD) /org/model/resolve", **fault))
    with pytest.raises(UserError, match=message) as error:
        download()
    assert "\n" not in str(error.value)
    if fault["status"] == 429 and "headers" in fault:
        assert set(hub.waits) == {8.0}  # the library waits as long as it was told, and a second more
    hub.faults.clear()
    assert download().commit == published.commit


def test_no_network(hub: HubServer, published: Uploaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download()
    hub.shutdown()
    hub.server_close()
    close_session()  # and with it the connections that are still open
    assert download().commit == published.commit  # what is in the cache is used
    with pytest.raises(UserError, match=r"no connection to .*org/other is not complete in the cache"):
        download(repo="org/other")
    with pytest.raises(UserError, match="no connection to"):
        upload(tmp_path / "first")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 500}, "fails with status 500"),
        ({"status": 401}, "that you may use"),
        ({"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}, "that you may use"),
        ({"status": 200}, "does not answer as a model hub"),  # a page of a portal
        ({"status": 302, "headers": {"Location": "http://10.255.255.1/x"}}, "does not answer as a model hub"),
    ],
)
def test_an_older_commit_of_the_cache_is_told(
    hub: HubServer,
    published: Uploaded,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    fault: dict[str, Any],
    reason: str,
) -> None:
    """The client takes the cache in silence, whatever was published since."""
    download()
    newer = upload(make_folder(tmp_path / "b", b"other" * 99))
    hub.faults.append(Fault("(GET|HEAD) /org/model/resolve", **fault))
    capfd.readouterr()
    assert download().commit == published.commit
    told = capfd.readouterr().err
    assert f"of the cache, commit {published.commit[:12]}, perhaps not the newest: " in told
    assert reason in told
    assert download(published.commit).commit == published.commit
    assert not capfd.readouterr().err  # a commit is pinned
    hub.faults.clear()
    assert download().commit == newer.commit
    assert not capfd.readouterr().err


def test_a_config_of_two_megabytes_is_not_downloaded(hub: HubServer, published: Uploaded) -> None:
    hub.repositories[REPO].add("main", {"config.json": b" " * (2 << 20)})
    with pytest.raises(UserError, match=r"config\.json of hf-hub:org/model has 2,097,152 bytes"):
        download()
    assert not hub.count("GET .*config")


def test_a_host_without_a_server_is_said_at_once(hub: HubServer, published: Uploaded) -> None:
    hub.shutdown()
    hub.server_close()
    close_session()
    with pytest.raises(UserError, match="no connection to"):
        download()
    assert not hub.waits


def test_a_token_that_is_none_is_said(hub: HubServer, published: Uploaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ñ")
    with pytest.raises(UserError, match="HF_TOKEN holds characters that no token has"):
        download()


@pytest.mark.parametrize("address", ["hub.example", "", "http://", "ftp://x", "http://127.0.0.1:99999", "http://[::1"])
def test_an_address_that_is_none_is_said(hub: HubServer, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    with pytest.raises(UserError, match=r"^HF_ENDPOINT is .*: give the address of a model hub"):
        download()


def test_a_cache_that_is_a_file_is_one_line(
    hub: HubServer, published: Uploaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"^cannot write .*file.*: allow it, or set HF_HOME to another folder"):
        download()


def test_offline(hub: HubServer, published: Uploaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_bytes_with_another_hash(hub: HubServer, published: Uploaded, times: int) -> None:
    fault = Fault("GET /cdn/", times=times, change=lambda data: b"\0" + data[1:])
    hub.faults.append(fault)
    if times > 1:
        with pytest.raises(UserError, match=r"model\.safetensors of hf-hub:org/model has sha256 .* not used"):
            download()
        assert not list(Path(constants.HF_HUB_CACHE).rglob("model.safetensors"))
        hub.faults.clear()
    assert (download().folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_file_that_changed_in_the_cache_is_fetched_again(hub: HubServer, published: Uploaded) -> None:
    file = download().folder / "model.safetensors"
    for damaged in (b"x" + WEIGHTS[1:], WEIGHTS[:-5], b""):
        file.resolve().write_bytes(damaged)
        assert (download().folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_is_taken_up_again(
    hub: HubServer, published: Uploaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.faults.append(Fault("GET /cdn/", times=2, cut=100_000))
    assert (download().folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [headers.get("range") for _, path, headers in hub.requests if "/cdn/" in path]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_a_full_disk(hub: HubServer, published: Uploaded) -> None:
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


@pytest.mark.parametrize("text", ["hf-hub:model", "hf-hub:a/b/c", "hf-hub:../x", "hf-hub:a/b@", "hf-hub:a b/c"])
def test_what_is_no_reference(text: str) -> None:
    message = "not a repository name" if text == "hf-hub:../x" else "is not a hub reference: hf-hub:ORG/NAME"
    with pytest.raises(UserError, match=message):
        hf_download.download(Reference.parse(text), "config.json", lambda _: {})


def test_a_file_name_cannot_leave_the_cache(hub: HubServer, published: Uploaded) -> None:
    for name in ("../evil", "/evil", "a/../../evil"):
        with pytest.raises((UserError, ValueError)):
            hf_download.download(Reference(REPO), "config.json", lambda _, name=name: {name: "0" * 64})
    assert not list(Path(constants.HF_HUB_CACHE).parent.rglob("evil"))


def test_several_processes_at_once(hub: HubServer, published: Uploaded) -> None:
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
