"""URLs that are signed, and servers that send whole files only."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import run
from signed_server import signed_server
from small_sources import IMAGES, rows, tar

from zoo.errors import UserError

SIGNED = "X-Amz-Credential=AK%2F2026%2Fs3&X-Amz-Signature=0f%2Bsecret"


@pytest.mark.parametrize("name", ["x.tar", "x.parquet", "list.csv", "list.txt", "0.png"])
def test_a_presigned_url_is_read_and_its_signature_stays_secret(tmp_path: Path, name: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads https with it")
    pq.write_table(pa.table({"image": IMAGES}), tmp_path / "x.parquet")
    files = {
        "/a/x.tar": tar(tmp_path / "x.tar", [(f"{n}.png", data) for n, data in enumerate(IMAGES)]).read_bytes(),
        "/a/x.parquet": (tmp_path / "x.parquet").read_bytes(),
        "/a/0.png": IMAGES[0],
    }
    with signed_server(files, SIGNED) as address:
        url = f"http://{address}"
        lines = [f"{url}/a/0.png?{SIGNED}"]
        files |= {"/a/list.csv": "\n".join(["path", *lines]).encode(), "/a/list.txt": "\n".join(lines).encode()}
        result = run(f"{url}/a/{name}?{SIGNED}", tmp_path / "out")
        assert result.failed == {}
        assert result.ok == (4 if name in ("x.tar", "x.parquet") else 1)
        if not name.startswith("list"):
            assert all("secret" not in row["path"] for row in rows(tmp_path / "out"))
            assert b"secret" not in (tmp_path / "out" / "_manifest.json").read_bytes()
        with pytest.raises(UserError) as caught:
            run(f"{url}/a/gone-{name}?{SIGNED}", tmp_path / "none")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ranges", ["no", "lies"])
@pytest.mark.parametrize("name", ["x.tar", "x.parquet"])
def test_a_server_without_ranges_is_named_in_true_words(tmp_path: Path, name: str, ranges: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads https with it")
    large = IMAGES * 400
    pq.write_table(pa.table({"image": large}), tmp_path / "x.parquet", use_dictionary=False)
    tar(tmp_path / "x.tar", [(f"{n}.png", data) for n, data in enumerate(large)])
    files = {
        f"/{name}": (tmp_path / name).read_bytes() + bytes(12_000_000 if name == "x.tar" else 0),
        "/0.png": IMAGES[0],
    }
    with signed_server(files, "", ranges=ranges) as address:
        url = f"http://{address}"
        files["/list.txt"] = b"0.png\n"
        with pytest.raises(UserError, match=r"whole files only.*download it"):
            run(f"{url}/{name}", tmp_path / "out")
        assert run(f"{url}/list.txt", tmp_path / "list").ok == 1, "lists and single images are read front to back"
