"""The map, the filters and the captions of the page, in a real browser; and what they ask the server for."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsers import CHROMIUM, PLAYWRIGHT, installed
from extraction_driver import run
from pictures import fill
from test_server_app import Means, Site

from zoo.search import umap_map
from zoo.search.collection import Collection
from zoo.search.index import build, open_index
from zoo.search.pca_map import pca_points
from zoo.search.server.served import ServedCollection
from zoo.search.thumbnails import Thumbnails

HOSTILE = [
    "<img src=x onerror=alert(1)>.jpg",
    "\"quotes' & <script src=x>.jpg",
    "\x1b[31mred\x1b[0m.jpg",
    "\u202egpj.exe\u2066.jpg",
    "مرحبا-عالم.jpg",
]
KINDS = ["cat", "<b>dog</b>", "bird", ""]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Forty pictures, five of them with hostile names, and two kept columns: a kind and a price."""
    root = tmp_path_factory.mktemp("explore")
    images = fill(root / "images", 40)
    files = sorted(images.rglob("*.*"))
    for file, name in zip(files, HOSTILE, strict=False):
        file.rename(images / name)
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "kind", "price"])
        for n, path in enumerate(sorted(p for p in images.rglob("*") if p.is_file())):
            writer.writerow([path.relative_to(root), KINDS[n % 4], n / 2])
    run(root / "list.csv", root / "out", keep=("kind", "price"), embedder=Means())
    made = Collection(root / "out")
    build(made)
    return made


@pytest.fixture(scope="module")
def site(collection: Collection) -> Iterator[Site]:
    umap = umap_map.UmapMap(collection) if umap_map.is_installed() else None
    thumbnails = Thumbnails(collection, str(collection.root.parent / "list.csv"))
    served = ServedCollection(
        collection, open_index(collection), Means(), pca_points(collection), thumbnails, umap=umap
    )
    running = Site(served)
    yield running
    running.stop()
    if umap is not None:
        umap.close()


def test_routes_of_columns_rows_and_filter(site: Site, collection: Collection) -> None:
    kind, size = site.json("/api/columns")
    assert (kind["name"], kind["kind"], sorted(kind["values"])) == ("kind", "categories", sorted(KINDS))
    assert (size["name"], size["kind"], size["least"], size["most"]) == ("price", "numbers", 0, 19.5)
    codes = np.frombuffer(site.request("GET", "/api/columns/0/values")[1], "<u2")
    kinds = [image["kept"]["kind"] for image in site.json("/api/images?count=40")]
    assert [kind["values"][code] for code in codes] == kinds
    sizes = np.frombuffer(site.request("GET", "/api/columns/1/values")[1], "<f4")
    assert sizes.tolist() == [n / 2 for n in range(40)]
    assert [image["row"] for image in site.json("/api/rows?row=7&row=3&row=39")] == [7, 3, 39]
    found = site.request("GET", "/api/filter?text=OnError")[1]
    names = [item.name for item in collection.items(0, 40)]
    assert np.flatnonzero(np.frombuffer(found, np.uint8)).tolist() == [n for n, x in enumerate(names) if "onerror" in x]
    neighbour = site.json("/api/neighbours/3?k=2")[0]
    assert neighbour["kept"] == {"kind": kinds[3], "price": "1.5"}
    for path, status in (
        ("/api/columns/2/values", 404),
        ("/api/columns/-1/values", 422),
        ("/api/rows?row=40", 404),
        ("/api/rows?row=-1", 404),
        ("/api/rows?row=99999999999999999999999", 404),
        ("/api/rows", 422),
        ("/api/rows?" + "&".join(["row=1"] * 201), 422),
        ("/api/filter?text=", 422),
        ("/api/filter?text=" + "x" * 201, 422),
        ("/api/map?kind=tsne", 422),
    ):
        assert site.request("GET", path)[0] == status, path


def test_the_page_in_a_browser(site: Site, collection: Collection, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    (tmp_path / "node_modules").symlink_to(installed(PLAYWRIGHT))
    shutil.copy(Path(__file__).parent / "drive_explore.mjs", tmp_path)
    shots = os.environ.get("SERVE_SCREENSHOTS", str(tmp_path))
    command = ["node", "drive_explore.mjs", f"http://127.0.0.1:{site.port}/", CHROMIUM, shots]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    saw = json.loads(done.stdout)
    assert (saw["foreign"], saw["errors"], saw["alerts"]) == ([], [], 0)

    # A random sample, the same for each visitor; names are texts.
    names = [item.name for item in collection.items(0, 40)]
    assert len(set(saw["sample"])) == 24
    assert saw["nextSample"] == saw["sample"] != saw["shuffled"]
    assert saw["elements"] == 0
    shown = [names[row] for row in saw["shuffled"]]
    assert saw["names"] == [x if len(x) <= 24 or "/" not in x else f"…/{x.rpartition('/')[2]}" for x in shown]

    # Captions and colours follow the column.
    kinds = [KINDS[n % 4] for n in range(40)]
    sizes = [n / 2 for n in range(40)]
    assert sorted(saw["legend"]) == sorted([kind or "(empty)", "10", "true"] for kind in KINDS)
    colour = {entry[0]: colour for entry, colour in zip(saw["legend"], saw["colours"], strict=True)}
    assert len(set(colour.values())) == 4
    assert len(saw["captions"]) == 24
    for row, caption, of in saw["captions"]:
        assert (caption, of) == (kinds[row], colour[kinds[row] or "(empty)"])

    # Filters by value, by number and by text.
    first, second = (("" if entry[0] == "(empty)" else entry[0]) for entry in saw["legend"][:2])
    assert not {kinds[row] for row in saw["withoutFirst"]} & {first}
    assert saw["pressed"] == "false"
    assert saw["painted"] == {"count": 40, "full": 30}
    assert saw["secondAlone"] == [n for n in range(40) if kinds[n] == second]
    assert saw["ends"] == [["least price", 0], ["most price", 19.5]]
    assert saw["fromTen"] == [n for n in range(40) if sizes[n] >= 10]
    matching = [n for n, name in enumerate(names) if "onerror" in name]
    assert saw["byText"] == [row for row, _ in saw["list"]] == saw["near"] == matching
    assert saw["list"][0][1] == "flex"
    assert f"1 to 1 of 1 images that match, of {len(names)}" in saw["pages"]
    assert saw["scored"] == "rank 1, centred cosine 1.000"

    # The view, by mouse and by fingers.
    assert saw["whole"]["count"] == saw["again"]["count"] == 40
    assert 0 < saw["zoomed"]["count"] < 40
    assert saw["moved"]["count"] < saw["zoomed"]["count"]
    assert saw["pinched"]["count"] < 40

    # A region's pictures are those of the points in it.
    points = pca_points(collection)[:, 0]
    assert len(saw["left"][0]) == min(24, (points < 0).sum())
    both = int(saw["left"][1].split(" of ")[1].split()[0]) + int(saw["right"][1].split(" of ")[1].split()[0])
    assert both == 40
    assert all(points[row] < 0 for row in saw["left"][0])
    assert all(points[row] > 0 for row in saw["right"][0])
    assert saw["inView"].endswith("of 40 selected")
    if umap_map.is_installed():
        assert (saw["kinds"], saw["umap"]["count"]) == (["pca", "umap"], 40)

    assert saw["belowButtons"] > 0

    # Basics for a screen reader and a telephone.
    assert (saw["nameless"], saw["twice"], saw["sideways"]) == ([], [], 0)

    # Pictures of any shape.
    assert len(saw["ratios"]) == 40
    assert all(abs(ratio - 1) < 0.05 for ratio in saw["ratios"]), saw["ratios"]
    assert saw["pageLine"] < 10, "page 1 of 15 is one line"
    assert saw["foundFrom"] < 844 - 100


def test_umap_is_computed_beside_the_server_and_cached(collection: Collection) -> None:
    pytest.importorskip("umap")
    command = [sys.executable, "-m", "zoo.search.umap_map", str(collection.root)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    before = umap_map.cache_of(collection).read_bytes()
    points = umap_map.UmapMap(collection).points()
    assert points is not None
    assert points.shape == (40, 2)
    assert np.abs(points).max() <= 1
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    assert umap_map.cache_of(collection).read_bytes() == before, "the same collection gives the same map"
