"""Official weights by name: fetched over HTTP, verified, converted, cached; by eight processes at once, some killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from file_server import Server, serve
from typer.testing import CliRunner

import zoo
from zoo.cli.main import app
from zoo.errors import UserError
from zoo.hub import http_download, pretrained
from zoo.models import licences, registry
from zoo.models.registry import Architecture, HashPrefix, ModelSpec, Weights
from zoo.system.atomic_files import remove_tree, sha256_file

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "goldens" / "byol_r14_free.final.pkl"
URL, PATH = "https://example.org/byol_r14.pkl", "/example.org/byol_r14.pkl"
R14 = Architecture(
    "resnetv2_50", 256, 130_632, {"preact": False, "layers": [1, 1, 1, 1], "width_factor": 0.125}, padding="symmetric"
)
NAME = "byol_r14.deepmind"


def spec(**changes: object) -> ModelSpec:
    weights = Weights(URL, None, "CC-BY-NC-4.0", "an official code", padding="same", kind="deepmind-byol")
    return ModelSpec("byol_r14", "byol", "r14", "", {"deepmind": replace(weights, **changes)})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_download, "_BACKOFF", 0.001)
    monkeypatch.delenv(http_download.OFFLINE, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The registry knows the golden checkpoint under a name, the mirror has it, the cache is empty."""
    found = Architecture(**vars(R14) | {"parameters": parameters()})
    monkeypatch.setitem(registry.ARCHITECTURES, "r14", found)  # type: ignore[arg-type]
    monkeypatch.setitem(registry.MODELS, "byol_r14", spec())  # type: ignore[arg-type]
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    with serve() as running:
        monkeypatch.setenv(http_download.MIRROR, running.address)
        running.files[PATH] = GOLDEN.read_bytes()
        yield running


def parameters() -> int:
    with torch.device("meta"):
        from zoo.models.resnet import build_encoder

        return sum(p.numel() for p in build_encoder(R14).parameters())


def use(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    monkeypatch.setitem(registry.MODELS, "byol_r14", spec(**changes))  # type: ignore[arg-type]


def test_a_name_is_downloaded_once_and_is_the_official_network(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(licences, "_announced", set())
    embedder = zoo.load(NAME, device="cpu")
    told = capsys.readouterr().err
    assert f"{NAME}: downloading {URL}" in told
    assert f"{NAME}: licence CC-BY-NC-4.0, not for commercial use; source: an official code" in told
    data = np.load(ROOT / "tests" / "goldens" / "byol_r14_free.npz")
    size = next(k.removeprefix("eval_image_") for k in data if k.startswith("eval_image_"))
    with torch.no_grad():
        x = torch.from_numpy(data[f"eval_image_{size}"]).float().sub(torch.tensor(embedder.preprocessing.mean))
        x = x.div(torch.tensor(embedder.preprocessing.std)).permute(0, 3, 1, 2)
        ours = embedder.model(x).numpy()
    reference = data[f"eval_embedding_{size}"]
    assert np.abs(ours - reference).max() / np.abs(reference).max() < 1e-4
    assert embedder.heads is not None
    assert embedder.heads.predictor is not None
    about = embedder.identity()
    assert (about["model"], about["licence"], about["source"]) == (NAME, "CC-BY-NC-4.0", "an official code")
    again = zoo.load("byol_r14", device="cpu")
    assert len(server.requests) == 1
    assert capsys.readouterr().err == ""  # said once
    assert torch.equal(again.model.state_dict()["stem.conv.weight"], embedder.model.state_dict()["stem.conv.weight"])
    assert sorted(p.name for p in pretrained.cached(spec(), "deepmind").parent.iterdir()) == [NAME]


def test_offline_the_cache_or_a_local_file_serves(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(http_download.OFFLINE, "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        zoo.load(NAME)
    pretrained.fetch_by_name("byol_r14", file=GOLDEN)
    assert zoo.load(NAME, device="cpu").dim == 256
    assert server.requests == []


def test_a_file_that_only_a_browser_gets_is_asked_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, by_hand="it lies in a shared folder that only a browser opens")
    with pytest.raises(UserError, match=rf"{NAME} cannot be downloaded: it lies in .*zoo fetch {NAME} --file FILE`"):
        zoo.load(NAME)
    assert server.requests == []
    pretrained.fetch_by_name("byol_r14", file=GOLDEN)
    assert zoo.load(NAME, device="cpu").dim == 256


def test_the_hash_of_first_use_is_kept_and_a_change_is_refused(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.cli.model_info import print_info

    zoo.load(NAME)
    print_info("byol_r14")
    assert f"{sha256_file(GOLDEN)} (as on first use here, not verified)" in capsys.readouterr().out
    remove_tree(pretrained.cached(spec(), "deepmind"))
    data = bytearray(server.files[PATH])
    data[-1000] ^= 1
    server.files[PATH], server.etag = bytes(data), '"two"'
    with pytest.raises(UserError, match="on first use it had") as refused:
        zoo.load(NAME)
    record = Path(str(refused.value).rpartition("remove ")[2])
    assert json.loads(record.read_text())["url"] == URL


def test_a_wrong_hash_is_refused_before_parsing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.convert import convert as converting

    use(monkeypatch, sha256="0" * 64)
    monkeypatch.setattr(converting, "read", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(UserError, match=f"has sha256 {sha256_file(GOLDEN)}, the registry says 000"):
        zoo.load(NAME)
    cache = pretrained.cached(spec(), "deepmind").parents[1]
    assert [p.name for p in cache.rglob("*") if p.is_file()] == [f"{NAME}.lock"]


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_the_hash_prefix_of_the_authors_is_verified(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    from zoo.cli.model_info import print_info
    from zoo.convert import convert as converting

    digits = hashlib.new(algorithm, GOLDEN.read_bytes()).hexdigest()
    with monkeypatch.context() as wrong:
        use(wrong, hash_prefix=HashPrefix(algorithm, "0" * 8, "its README"))
        wrong.setattr(converting, "read", lambda *_, **__: pytest.fail("it was parsed"))
        with pytest.raises(
            UserError, match=rf"has {algorithm} {digits}, its authors publish 0{{8}}\.\.\. \(its README\)"
        ):
            zoo.load(NAME)
        with pytest.raises(UserError, match="its authors publish"):
            pretrained.fetch_by_name(NAME, file=GOLDEN)
    use(monkeypatch, hash_prefix=HashPrefix(algorithm, digits[:8], "its README"))
    assert zoo.load(NAME, device="cpu").dim == 256
    print_info("byol_r14")
    assert f"{algorithm} {digits[:8]}... (its README), verified at every download" in capsys.readouterr().out


def test_a_file_of_torchvision_is_supervised_r50(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision.models import resnet50

    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    official = resnet50().eval()
    file = tmp_path / "resnet50.pth"
    torch.save(official.state_dict(), file)
    with pytest.raises(UserError, match=r"its authors publish 0676ba61\.\.\. \(the file's name\): refused"):
        pretrained.fetch_by_name("supervised_r50", file=file)
    entry = registry.MODELS["supervised_r50"]
    prefix = HashPrefix("sha256", sha256_file(file)[:8], "a test")
    weights = dict(entry.weights) | {"tv_v1": replace(entry.weights["tv_v1"], hash_prefix=prefix)}
    monkeypatch.setitem(registry.MODELS, "supervised_r50", replace(entry, weights=weights))  # type: ignore[arg-type]
    pretrained.fetch_by_name("supervised_r50", file=file)
    embedder = zoo.load("supervised_r50", device="cpu")
    assert embedder.weights_info["method"] == "supervised"
    assert embedder.weights_info["licence"] == "BSD-3-Clause"
    assert embedder.heads is not None
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(embedder.heads.classifier(embedder.model(x)), official(x), rtol=1e-4, atol=1e-4)


def test_the_method_is_the_registry_s(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """MoCo v1, DeepCluster v2 and SeLa v2 are read by the readers of other methods."""
    monkeypatch.setitem(registry.MODELS, "byol_r14", replace(spec(), method="selav2"))  # type: ignore[arg-type]
    assert zoo.load(NAME, device="cpu").weights_info["method"] == "selav2"


def test_a_right_hash_of_another_network_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, padding="symmetric", sha256=sha256_file(GOLDEN))
    with pytest.raises(UserError, match=r"holds another network \(padding same, not symmetric\): refused"):
        zoo.load(NAME)
    assert not pretrained.cached(spec(), "deepmind").exists()


def test_the_hash_of_a_file_that_was_refused_is_not_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        use(other, padding="symmetric")
        with pytest.raises(UserError, match=f"^byol_r14: {re.escape(str(GOLDEN))} holds another network"):
            pretrained.fetch_by_name("byol_r14", file=GOLDEN)
    assert pretrained.recorded_hash(spec().weights["deepmind"]) is None
    pretrained.fetch_by_name("byol_r14", file=GOLDEN)
    assert pretrained.recorded_hash(spec().weights["deepmind"]) == sha256_file(GOLDEN)


@pytest.mark.parametrize("damage", ["changed", "truncated", "no config"])
def test_a_damaged_cache_is_replaced(server: Server, damage: str) -> None:
    folder = pretrained.fetch_by_name(NAME)
    file = folder / ("config.json" if damage == "no config" else "model.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    if damage == "no config":
        file.unlink()
    else:
        file.write_bytes(data if damage == "changed" else data[:-100])
    assert zoo.load(NAME, device="cpu").dim == 256
    assert len(server.requests) == 2


def test_another_model_in_a_folder_of_the_cache_is_refused_and_kept(server: Server) -> None:
    """Its weights would be right and its name wrong."""
    folder = pretrained.fetch_by_name(NAME)
    assert folder is not None
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"name": "byol_r14"', '"name": "simsiam_r50"'))
    before = [path.read_bytes() for path in sorted(folder.iterdir())]
    with pytest.raises(UserError, match=rf"{NAME} holds simsiam_r50\.deepmind: move it away"):
        zoo.load(NAME, device="cpu")
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == before


def test_nothing_to_fetch() -> None:
    for name, message in (
        ("byol_r18", "no weights to fetch"),
        ("byol_r50.none", "its tags: deepmind_in1k"),
        ("byol_r05", "unknown model"),
    ):
        with pytest.raises(UserError, match=message):
            pretrained.fetch_by_name(name)


def test_a_network_of_the_package_is_there_without_a_fetch() -> None:
    assert pretrained.fetch_by_name("byol_r18_mini") is None
    done = CliRunner().invoke(app, ["fetch", "byol_r18_mini"], catch_exceptions=False)
    assert (done.exit_code, "byol_r18_mini ships with the package" in done.output) == (0, True)
    with pytest.raises(UserError, match="leave out --file"):
        pretrained.fetch_by_name("byol_r18_mini", file=Path("official.pkl"))


def test_eight_processes_at_once_and_some_are_killed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every survivor loads the right bytes; what is under the final name is whole; the next run needs no clean-up."""
    server.faults[PATH] = ["drop 500000", "", "drop 1000000", "", "stall 2000"]
    here = Path(__file__).parent
    command = [sys.executable, str(here / "fetch_driver.py"), "8", "0.02", "0.1", "0.3"]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", here)))
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True, timeout=300
    )
    *folders, codes = done.stdout.splitlines()
    assert json.loads(codes)[3:] == [0] * 5, done.stdout + done.stderr
    assert set(folders) == {str(pretrained.cached(spec(), "deepmind"))}
    folder = Path(folders[0])
    alone = pretrained.checkpoint_dir.verify(folder)
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "other"))
    assert pretrained.checkpoint_dir.verify(pretrained.fetch_by_name(NAME)) == alone
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    assert zoo.load(NAME, device="cpu").dim == 256
    remove_tree(folder)
    downloads = tmp_path / "cache" / "downloads"
    (downloads / NAME / "host-1-0a").mkdir(parents=True)  # an unfinished download of an older version
    (downloads / NAME / "host-1-0a" / "body").write_bytes(b"other bytes")
    pretrained.fetch_by_name(NAME)  # removes the remains of the killed processes too
    assert [p.name for p in folder.parent.iterdir()] == [NAME]
    assert [p.name for p in downloads.iterdir()] == [f"{NAME}.lock"]


def test_one_of_two_at_once_downloads(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(pretrained.fetch_by_name, [NAME] * 2))
    assert folders == {pretrained.cached(spec(), "deepmind")}
    assert server.requests == [(PATH, "")]


def test_a_killed_download_is_resumed(server: Server) -> None:
    server.faults[PATH] = ["drop 500000"] + ["status 503"] * 4
    with pytest.raises(UserError, match="could not be downloaded"):
        zoo.load(NAME)
    server.requests.clear()
    assert zoo.load(NAME, device="cpu").dim == 256
    assert server.requests == [(PATH, "bytes=500000-")]


def test_a_pipe_or_a_device_is_no_official_file(tmp_path: Path) -> None:
    """Reading one may never end."""
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "pipe"), (Path("/dev/zero"), "device")):
        with pytest.raises(UserError, match=f"is a {kind}, not a file"):
            pretrained.fetch_by_name("simsiam_r50", file=path)
