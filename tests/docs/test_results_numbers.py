"""The tables of ``docs/results.md`` have the numbers of their JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import ROOT

RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
CARDS = ROOT / "model_cards" / "results"
MEASURED = ROOT / "benchmarks" / "results"


def load(path: Path | str) -> Any:
    return json.loads((MEASURED / path).read_text(encoding="utf-8"))


def section(heading: str) -> str:
    """The text below a heading, up to the next one of any level."""
    text = RESULTS.partition(f"\n{heading}\n")[2]
    assert text, heading
    return text.partition("\n## ")[0].partition("\n### ")[0]


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the first table below a heading, by the first cell of the row."""
    table = "|" + section(heading).partition("\n|")[2].partition("\n\n")[0]
    cells = [[text.strip() for text in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {first: others for first, *others in cells}


def cell(result: Any, digits: int = 1) -> str:
    low, high = result["interval_95"]
    return f"{result['score']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize(
    ("heading", "name"),
    [("## The network that ships", "simclr_r18_mini"), ("## The BYOL network that also ships", "byol_r18_mini")],
)
def test_the_networks_that_ship(heading: str, name: str) -> None:
    titles = {"Tiny-ImageNet": "tiny-imagenet", "CIFAR-10 (JPEG)": "cifar10-jpeg", "Flowers-17": "flowers17"}
    table = rows(heading)
    assert set(table) == set(titles)
    for title, data in titles.items():
        expected = []
        for protocol in ("knn", "linear"):
            trained, random = (
                load(CARDS / f"{name}.tin64" / f"{protocol}.{data}.{network}.json")
                for network in (name, f"{name}.random")
            )
            expected += [cell(trained), cell(random), f"**+{trained['score'] - random['score']:.1f}**"]
        assert table[title] == expected, title


PROTOCOLS = {
    ("semi-supervised, 1 % of the labels", "CIFAR-10"): "semi-supervised.cifar10-jpeg.1",
    ("semi-supervised, 10 %", "CIFAR-10"): "semi-supervised.cifar10-jpeg.10",
    ("semi-supervised, 1 %", "Tiny"): "semi-supervised.tiny-imagenet.1",
    ("semi-supervised, 10 %", "Tiny"): "semi-supervised.tiny-imagenet.10",
    ("transfer, linear", "Flowers"): "transfer.flowers17.linear",
    ("transfer, fine-tuned", "Flowers"): "transfer.flowers17.fine-tuned",
    ("linear-sgd", "Flowers"): "linear-sgd.flowers17",
    ("linear-lars", "Flowers"): "linear-lars.flowers17",
    ("segment", "CamVid"): "segment.camvid",
    ("detect", "80 + 60"): "detect.coco-mini",
    ("depth", "4 + 1"): "depth.depth",
}


def test_the_other_protocols() -> None:
    lines = [line for line in section("### The other protocols").splitlines() if line.startswith("| ")][1:]
    assert len(lines) == len(PROTOCOLS)
    for line in lines:
        protocol, setting, _, *shown = (text.strip() for text in line.strip("|").split("|"))
        (name,) = (name for (p, s), name in PROTOCOLS.items() if p == protocol and setting.startswith(s))
        folder = CARDS / "simclr_r18_mini.tin32" / "protocols"
        found = [load(folder / f"{name}.{network}.json") for network in ("simclr_r18_mini", "simclr_r18_mini.random")]
        digits = 2 if protocol == "detect" else 1
        cells = [cell(one, digits) if protocol != "depth" else f"{one['score']:.1f}" for one in found]
        assert shown == cells, name


def test_a_real_resnet_50() -> None:
    table = rows("## A real ResNet-50")
    found = {name: cell(load(f"imgsim/{name}.json")) for name in ("imgsim_knn", "imgsim_int8_knn", "random_knn")}
    assert table["kNN"] == list(found.values())
    assert table["linear"] == [cell(load("imgsim/imgsim_linear.json")), "", cell(load("imgsim/random_linear.json"))]


def test_five_methods_side_by_side() -> None:
    table = rows("## Five methods side by side")
    found = load("cifar10_cpu.json")
    titles = {"random": "random weights", "byol": "BYOL", "simsiam": "SimSiam", "simclr": "SimCLR", "mocov2": "MoCo v2"}
    titles |= {"swav": "SwAV", "lightly byol": "lightly 1.6.0's BYOL"}
    assert len(table) == len(found["rows"]) == len(titles)
    for row in found["rows"]:
        assert table[titles[row["name"]]] == [cell(row["knn"]), cell(row["linear"])], row["name"]
    minutes = {row["name"]: row["minutes"] for row in found["rows"]}
    text = " ".join(section("## Five methods side by side").split())
    assert f"took {minutes['byol']:.1f} minutes on that core, lightly's {minutes['lightly byol']:.1f}" in text


# ---------------------------------------------------------------- time and memory


def test_memory_and_plans() -> None:
    table = rows("## Memory")
    for row in load("memory.json")["rows"]:
        shown = [f"{row['peak_bytes'] / 1e9:.2f} GB", f"{row['seconds']:.1f}"]
        assert table[f"{row['images']:,}".replace(",", " ")] == shown
    text = section("## Memory")
    assert f"{load('memory.json')['rows'][-1]['growth_bytes_per_image']:.0f} bytes an image" in text
    for row in load("scale.json")["rows"]:
        parts = [row[part] for part in ("first", "again", "parts", "part")]
        memory = [f"{part['peak_bytes'] / 1e9:.2f} GB" for part in parts]
        times = [f"{int(part['seconds'] + 0.5)} s" for part in parts]
        cells = memory if row["rows"] == 1_000_000 else [f"{a}, {b}" for a, b in zip(memory, times, strict=True)]
        assert f"| {row['rows']:,} |".replace(",", " ") + f" {' | '.join(cells)} |" in text
    (plan,) = load("plan.json")["rows"]
    for page in ("results.md", "scaling-out.md"):
        told = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
        assert f"names of {plan['bytes_per_name']} bytes" in told
        assert f": {plan['disk_bytes_per_image']:.1f} bytes " in told


def test_activations() -> None:
    found = {row["encoder"]: row for row in load("activation_memory.json")["rows"]}
    training = (ROOT / "docs" / "training" / "index.md").read_text(encoding="utf-8")
    table = training.partition("| encoder | kept | recomputed |")[2].partition("\n\n")[0]
    shown = [[text.strip() for text in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(shown) == 8
    for name, kept, recomputed in shown:
        assert [kept, recomputed] == [f"{found[name][key]:.1f}" for key in ("kept_mib", "recomputed_mib")], name
    for page in (RESULTS, (ROOT / "docs" / "scaling-out.md").read_text(encoding="utf-8")):
        for name in ("r50", "r50x4", "r200x2"):
            assert f"{name} {found[name]['kept_mib']:.1f} / {found[name]['recomputed_mib']:.1f}" in " ".join(
                page.split()
            )


def test_evaluation_and_resizing() -> None:
    found = load("evaluation.json")
    table = list(rows("## Evaluation speed").values())
    assert table == [
        [f"{found['path']['minutes']:.1f} minutes, {found['path']['peak_gib']:.1f} GiB"],
        [f"{found['knn']['times_the_matrix_product']:.2f} times the bare matrix product"],
        [f"{found['sweep']['times_one_head']:.2f} times one head"],
    ]
    moved = {name: 100 * part["pillow"]["largest"] for name, part in load("resizing.json")["differences"].items()}
    text = " ".join(section("## Resizing").split())
    assert f"moves by {moved['byol']:.1f} % (BYOL's way of resizing) and {moved['simclr']:.1f} % (SimCLR's)" in text
    assert f"over {load('resizing.json')['photographs']} photographs" in text


def test_reduced_decoding() -> None:
    table = list(rows("## Large photographs and reduced precision").values())

    def short(value: float) -> str:
        return f"{value:.4f}".removeprefix("0")

    for shown, row in zip(table, load("decode_scaled.json")["rows"], strict=False):
        ratio = f"{row['scaled_over_exact']:.1f}"
        assert shown == [ratio, f"{short(row['moved_median'])} / {short(row['moved_most'])}"], row["resize"]
    both = load("extraction_12mp.json")
    assert table[-1][0] == f"{both['fp32_scaled_over_exact']:.1f} / {both['int8_scaled_over_exact']:.1f}"


def test_reduced_precision() -> None:
    def short(value: float) -> str:
        return f"{value:.5f}".removeprefix("0")

    table, exact = rows("### Reduced precision"), {}
    found = load("precision.json")["rows"]
    assert len(table) == len(found)
    for row in found:
        exact.setdefault(row["model"], row["knn_accuracy"])
        lost = row["knn_accuracy"] - exact[row["model"]]
        knn = f"{row['knn_accuracy']:.1f}" + (f" (**{lost:.1f}**)" if lost < -0.5 else "")
        centred = f"{short(row['centred_cosine_least'])} / {short(row['centred_cosine_mean'])}"
        bits = f", {row['weight_bits']} bits" if "weight_bits" in row else ""
        shown = table[f"{row['model']}, {row['backend']} {row['precision']}{bits}"]
        assert shown == [short(row["cosine_least"]), centred, knn, f"{row['same_nearest']:.1f} %"], row


def test_extraction_and_training() -> None:
    found = load("extraction_r50.json")
    best = {name: part["images_per_second"] for name, part in found["best"].items()}
    table = rows("## Extraction")
    numbers = {first.partition(",")[0].partition(" (")[0]: others for first, others in table.items()}
    assert numbers["`zoo extract`"] == [f"**{best['zoo fp32']:.1f}**", f"**{best['zoo int8']:.1f}**"]
    assert numbers["timm + DataLoader"][0] == f"{best['timm eager']:.1f} / {best['timm compiled']:.1f}"
    for text, shown in load("training_r18_cpu.json")["methods"].items():
        title = {"byol": "BYOL", "simsiam": "SimSiam"}[text]
        rates = [shown["best"][name]["images_per_second"] for name in ("zoo", "lightly", "bare")]
        expected = [f"{rates[0]:.1f}", f"{rates[1]:.1f}", f"{shown['zoo_over_lightly']:.2f}", f"{rates[2]:.1f}"]
        assert rows("## Training speed")[title] == expected
    large = load("training_r50_cpu.json")["methods"]
    told = " ".join(section("## Training speed").split())
    rates = [f"{large[m]['best'][who]['images_per_second']:.1f}" for m in large for who in ("zoo", "lightly")]
    assert f"{rates[0]} against {rates[1]} images/s for BYOL, {rates[2]} against {rates[3]} for SimSiam" in told
