"""Uploads and downloads killed in processes of their own: what was live stays live, half a file has no final name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hub_model import REPO, WEIGHTS, download, make_folder, upload
from hub_server import WRITE_TOKEN, Fault, HubServer

from zoo.hub.hf_upload import Uploaded

ROOT = Path(__file__).parents[2]


def in_a_process(hub: HubServer, code: str, home: Path, **variables: str) -> subprocess.Popen[str]:
    """A process of its own, told of the hub by the variables that users set."""
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITE_TOKEN, "HF_HOME": str(home)}
    command = [sys.executable, "-c", f"from pathlib import Path\nfrom zoo.hub import hf_download, hf_upload\n{code}"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | environment | variables, cwd=ROOT, **piped)  # type: ignore[call-overload,no-any-return]


def wait_for(hub: HubServer, pattern: str, process: subprocess.Popen[str]) -> None:
    pause = threading.Event()
    while not hub.count(pattern):
        assert process.poll() is None, process.communicate()
        pause.wait(0.02)


@pytest.mark.parametrize("held", ["PUT /lfs/", "POST .*/commit/"])
def test_a_killed_upload_leaves_the_old_revision_live(
    hub: HubServer, published: Uploaded, tmp_path: Path, held: str
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
    hub: HubServer, published: Uploaded, tmp_path: Path
) -> None:
    """And the next process, with the same cache, gets the whole file; the one after that needs no network."""
    fetch = "import json; s = hf_download.download(hf_download.Reference('org/model'), 'config.json', "
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
