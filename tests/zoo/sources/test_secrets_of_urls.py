"""Logins and signatures of URLs are used, and stand in no file, no message and no output of a command."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from signed_server import signed_server

from training.cli import app as training
from zoo.cli.app import exit_code
from zoo.cli.main import app as zoo
from zoo.errors import EXIT_OK, EXIT_USER_ERROR, UserError, without_secrets

SECRETS = ("S3CRET", "PASSW0RD")
QUERY = "X-Amz-Credential=AK%2F2026%2Fs3&X-Amz-Signature=0f%2BS3CRET"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h:80/a/x.tar?X=1&s=%2F", "https://h:80/a/x.tar?..."),
        ("https://token@h/x", "https://h/x"),
        ("zip://a.csv::https://u:p@h/x.zip?k=v", "zip://a.csv::https://h/x.zip?..."),
        ("https:/h/x.tar?a=b", "https:/h/x.tar?..."),  # as pathlib writes it
        ("cannot list 'http://h/x?a=b': 'http://h/y?c=d'", "cannot list 'http://h/x?...': 'http://h/y?...'"),
        ("https://h/{split}.csv?sig=1#part --k 3", "https://h/{split}.csv?... --k 3"),
        *((same, same) for same in ("s3://b/a?.jpg", "user@host:/x", "https://h/@a/b", "what? a=b", "C:/a?b=c")),
    ],
)
def test_urls_lose_login_and_query(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert str(UserError(text)) == shown


@pytest.mark.parametrize("part", ["http://a?", "a:/", "a.", "http://a@", "https://u:p@", "s3://x?="])
def test_any_text_takes_time_in_proportion_to_its_length(part: str) -> None:
    """Once, 50 000 parts took hours: errors quote what files hold."""
    assert not any(secret in without_secrets(part * 50_000 + "://") for secret in SECRETS)


def shards() -> bytes:
    random, file = np.random.default_rng(0), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(16):
            image = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(image, "PNG")
            for name, data in ((f"{number}.png", image.getvalue()), (f"{number}.cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def address() -> Iterator[str]:
    """HOST:PORT of a server that asks for the login u:PASSW0RD and the query above."""
    data = {f"/{name}.tar": shards() for name in ("train", "val", "test")}
    with signed_server(data, QUERY, login="u:PASSW0RD") as host:
        yield host


def assert_no_secret(folder: Path, *outputs: str) -> None:
    told = [os.fsencode(text) for text in outputs]
    told += [path.read_bytes() + os.fsencode(path) for path in folder.rglob("*") if path.is_file()]
    for text in told:
        assert not any(secret.encode() in text for secret in SECRETS), text[:2000]


def test_no_command_stores_or_prints_them(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads https with it")
    monkeypatch.chdir(tmp_path)
    train, split, gone = (f"http://u:PASSW0RD@{address}/{name}.tar?{QUERY}" for name in ("train", "{split}", "gone"))
    small = [word for text in ("optim.batch_size=8", "optim.epochs=1", "optim.warmup_epochs=0", "monitor_epochs=0")
             for word in ("--set", text)]  # fmt: skip
    run = ["zoo-train", "run", "simclr_r18_tin32", "--out", "run", "--device", "cpu", *small]
    commands = [
        (["zoo", "extract", train, "--out", "out"], EXIT_OK),
        (["zoo", "extract", train, "--out", "out", "--update"], EXIT_OK),
        (["zoo", "evaluate", "knn", "--data", split, "--out", "knn.json", "--set", "k=3"], EXIT_OK),
        ([*run, "--data", train], EXIT_OK),
        ([*run, "--data", train, "--resume"], EXIT_OK),
        (["zoo", "extract", gone, "--out", "none", "--verbose"], EXIT_USER_ERROR),
        (["zoo-train", "run", "simclr_r18_tin32", "--out", "none", "--data", gone], EXIT_USER_ERROR),
    ]
    for words, code in commands:
        monkeypatch.setattr(sys, "argv", words)
        found = exit_code({"zoo": zoo, "zoo-train": training}[words[0]], words[0], "")
        told = capfd.readouterr()
        assert found == code, (words, told.err)
        assert_no_secret(tmp_path, told.out, told.err)
    assert f"--data 'http://{address}/{{split}}.tar?...'" in json.loads((tmp_path / "knn.json").read_text())["command"]
