"""What is missing is said before a model is opened and before torch is imported, which takes seconds."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo.errors import EXIT_USER_ERROR, UserError
from zoo.models.registry import DEFAULT_MODEL
from zoo.system import hardware
from zoo.system.preflight import require_packages, require_path

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"
_SCRIPT = """
import sys
{before}
sys.argv = {words!r}
from {module} import app
from zoo.cli.app import exit_code
code = exit_code(app, sys.argv[0], "")
late = sorted({{"torch", "timm", "onnxruntime"}} & set(sys.modules))
print(code, ",".join(name for name in late if sys.modules[name] is not None))
"""


def said(*words: object, before: str = "") -> str:
    """The error of a command in a new process; it had exit code 2 and imported none of the slow libraries."""
    module = "zoo.cli.main" if words[0] == "zoo" else "training.cli"
    script = _SCRIPT.format(before=before, words=[str(word) for word in words], module=module)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "2 \n", done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("kind", [".", "..", "/", "folder", "folder/", "pipe.onnx"])
def test_an_exported_file_needs_a_name_that_can_be_written(tmp_path: Path, kind: str) -> None:
    """``..`` gave a file ``...onnx``, a folder one beside it, and ``.`` a traceback."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    out = kind if kind in (".", "..", "/") else tmp_path / kind
    assert re.search("--out .* is (a folder|a device, a pipe)", said("zoo", "export", "--out", out))


@pytest.mark.parametrize(
    "words",
    [
        ("zoo", "extract", "--images", "nowhere", "--out", "out"),
        ("zoo", "verify", "nowhere"),
        ("zoo", "cat", "nowhere", "all.csv"),
        ("zoo", "index", "nowhere"),
        ("zoo", "search", "nowhere", "a.jpg"),
        ("zoo", "serve", "nowhere"),
        ("zoo", "convert", "nowhere", "--from", "simsiam", "--out", "new"),
        ("zoo", "export", "--out", "a.onnx", "--precision", "int8", "--calibrate", "nowhere"),
        ("zoo", "export", "--out", "a.onnx", "--model", "nowhere/a.safetensors"),
        ("zoo", "evaluate", "knn", "--data", "nowhere"),
        ("zoo", "evaluate", "detect", "--data", "nowhere"),
        ("zoo", "report", "nowhere"),
        ("zoo-train", "run", "byol_r18_tin32", "--data", "nowhere", "--out", "run"),
        ("zoo-train", "ablate", "target", "--data", "nowhere", "--out", "run"),
        ("zoo-train", "export", "nowhere", "--out", "a.safetensors"),
        ("zoo-train", "summary", "nowhere", "--out", "run"),
    ],
    ids=" ".join,
)
def test_a_missing_file_or_folder(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in said(*words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("onnx", ("zoo", "export", "--out", "a.onnx")),
        ("onnxruntime", ("zoo", "export", "--out", "a.onnx")),
        ("onnxruntime", ("zoo", "extract", "--images", PHOTOS, "--out", "out", "--backend", "onnx")),
        ("onnxscript", ("zoo", "publish", "byol_r18_mini", "--repo", "a/b", "--dry-run", "out")),
        ("scipy", ("zoo", "evaluate", "linear", "--data", PHOTOS)),
        ("faster_coco_eval", ("zoo", "evaluate", "detect", "--data", PHOTOS)),
        ("matplotlib", ("zoo", "report", PHOTOS)),
        ("tensorboard", ("zoo-train", "run", "byol_r18_tin32", "--data", PHOTOS, "--out", "run", "--tensorboard")),
        ("matplotlib", ("zoo-train", "ablate", "target", "--data", PHOTOS, "--out", "run")),
    ],
    ids=str,
)
def test_a_missing_extra(
    package: str, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = said(*words, before=f"sys.modules[{package!r}] = None")
    assert f"needs {package}: pip install 'siamese-zoo[" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "device"),
    [
        (("zoo", "extract", "--images", PHOTOS, "--out", "out"), "gpu"),
        (("zoo-train", "run", "byol_r18_tin32", "--data", PHOTOS, "--out", "run"), "gpu"),
        *((("zoo", "evaluate", "knn", "--data", PHOTOS), device) for device in ("gpu", "cuda0", "CPU", "cuda:x", "")),
    ],
    ids=str,
)
def test_a_wrong_device_lists_those_of_the_machine(
    words: tuple[object, ...], device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = said(*words, "--device", device)
    assert f"device {device!r} is not usable here: this machine has cpu" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", "9" * 23), f"batch size {'9' * 23}: give a number from 1 to {2**40}"),
        (("--shard-size", "9" * 23), f"shard size {'9' * 23}: give a number from 1 to {2**40}"),
        (("--max-pixels", "9" * 23), "give a number from 1 to"),
        (("--dedupe", "--near", "nan"), "--near nan: give a cosine above 0"),
        (("--near", "0.9"), "--near needs --dedupe"),
        (("--keep", "a,a"), "a column is kept twice"),
        (("--out", "file/below/out"), "file is a file: choose another --out"),
        (("--out", "broken/out"), "broken is a broken link: choose another --out"),
    ],
    ids=str,
)
def test_an_option_of_extract_that_no_model_makes_right(
    options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nothing")
    assert message in said("zoo", "extract", PHOTOS, "--out", "out", *options)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "broken"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.zip", "a.zip is an archive that is not read in place: unpack it"),
        ("a.csv.gz", "a.csv.gz is an archive"),
        ("a.HEIC", 'a.HEIC is HEIC: pip install "siamese-zoo[heic]" reads it'),
    ],
)
def test_a_file_that_has_to_be_unpacked_or_needs_an_extra(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"something")
    without_heif = "sys.modules['pillow_heif'] = None"
    assert message in said("zoo", "extract", name, "--out", "out", before=without_heif)


@pytest.mark.parametrize(
    "words",
    [
        ("zoo", "extract", PHOTOS, "--out", "out", "--model"),
        ("zoo", "export", "--out", "a.onnx", "--model"),
        ("zoo", "info"),
        ("zoo", "publish", "--repo", "a/b", "--dry-run", "out"),
    ],
    ids=lambda words: words[1],
)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run", "zoo-train export run --out"),
        ("./run", "zoo-train export run --out"),
        ("run/checkpoint-00000003.pt", "zoo-train export run/checkpoint-00000003.pt --out"),
        ("result", "`zoo index` and `zoo search` take it"),
        ("weights.pth", "`zoo convert weights.pth --out MODEL`"),
        ("picture.jpg", "is an image"),
        ("empty.safetensors", "it is empty"),
    ],
)
def test_what_is_no_model_names_the_command_that_takes_it(
    words: tuple[object, ...], name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "result"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "checkpoint-00000003.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "result" / "_manifest.json").write_text("{}")
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02")
    (tmp_path / "picture.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    (tmp_path / "empty.safetensors").touch()
    if words[1] == "publish" and name in ("run", "./run", "run/checkpoint-00000003.pt", "result", "weights.pth"):
        message = "is not a model of the zoo yet"
    assert message in said(*words, name)


def test_an_official_file_that_is_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = said("zoo", "fetch", "byol_r50", "--file", PHOTOS / "rocket.jpg")
    assert "is an image: `zoo extract --images` takes it" in line


def without_the_rights_of_root() -> None:
    """Give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root enters every folder; others have neither."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP of linux/prctl.h


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities of Linux")
@pytest.mark.parametrize(
    "words",
    [
        ("zoo", "extract", PHOTOS, "--out", "OUT"),
        ("zoo", "extract", "OUT", "--out", "out"),
        ("zoo", "verify", "OUT"),
        ("zoo", "cat", "OUT", "all.csv"),
        ("zoo", "index", "OUT"),
        ("zoo", "search", "OUT", PHOTOS / "rocket.jpg"),
        ("zoo", "info", "OUT"),
        ("zoo", "evaluate", "knn", "--data", "OUT"),
        ("zoo-train", "plot", "OUT"),
        ("zoo-train", "export", "OUT", "--out", "a.safetensors"),
        ("zoo-train", "run", "byol_r18_tin32", "--data", "OUT", "--out", "run"),
    ],
    ids=lambda words: " ".join(map(str, words[:2])),
)
def test_a_folder_that_may_not_be_entered_is_one_line(words: tuple[object, ...], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    given = [str(closed / "x") if word == "OUT" else str(word) for word in words]
    module = "zoo" if words[0] == "zoo" else "training"
    command = [sys.executable, "-m", module, *given[1:]]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, preexec_fn=without_the_rights_of_root
    )
    closed.chmod(0o700)
    assert done.returncode == EXIT_USER_ERROR, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"{words[0]}: error: ")


@pytest.mark.parametrize(
    "words",
    [
        ("zoo", "extract", PHOTOS, "--out", "out", "--model", "hf-hub:org/name"),
        ("zoo", "info", "hf-hub:org/name@main"),
        ("zoo", "publish", DEFAULT_MODEL, "--repo", "org/name"),
        ("zoo", "publish", DEFAULT_MODEL, "--space", "org/name"),
    ],
    ids=lambda words: " ".join(map(str, words[:2])),
)
def test_a_hub_whose_name_is_unknown_is_not_asked(
    words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client asks six times, with a pause of up to 8 seconds before each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    line = said(*words, before="import huggingface_hub; huggingface_hub.hf_hub_download = None")
    assert "no connection to https://hub.invalid" in line


def test_gpus_are_listed_by_name_as_far_as_they_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("NVIDIA H200", "NVIDIA L4")):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text(f"Model: \t\t {name}\nIRQ: 1\n")
    monkeypatch.setattr(hardware, "_NVIDIA", tmp_path)
    monkeypatch.setattr(hardware, "_GPU_FILES", (str(tmp_path),))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert hardware.devices_here() == "cpu, cuda:0 (NVIDIA H200), cuda:1 (NVIDIA L4)"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert hardware.devices_here() == "cpu, cuda:0 (NVIDIA L4)"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware.devices_here() == "cpu"


def test_a_model_without_weights_names_its_untrained_network() -> None:
    with pytest.raises(UserError, match=r"byol_r18 has no released weights: byol_r18\.random is the untrained network"):
        zoo.load("byol_r18")
    assert zoo.load("byol_r18.random", device="cpu").dim == 512


def test_patterns_urls_and_names_are_left_to_those_who_open_them(tmp_path: Path) -> None:
    for place in ("a-{000..009}.tar", "*.jpg", "s3://bucket/a", "-", "torchvision:CIFAR10:x", "", str(tmp_path)):
        require_path(place, "missing")
    with pytest.raises(UserError, match="missing"):
        require_path(tmp_path / "a", "missing")
    with pytest.raises(UserError, match=r"x needs nosuch and no\.such: pip install 'siamese-zoo\[onnx\]'"):
        require_packages("x", "onnx", "numpy", "nosuch", "no.such")
