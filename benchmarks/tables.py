"""Write ``docs/benchmarks.md`` from the JSON in ``benchmarks/results``.

    python benchmarks/tables.py            # writes it
    python benchmarks/tables.py --check    # exit code 1 where it is not what the JSON says

Each table has its goal, the command and the JSON that it comes from, and what the JSON says of the CPU. ``tests/docs``
holds the page against the JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"
Rows = Sequence[Sequence[object]]
PROFILED = ("network", "decode", "resize", "read", "hash", "commit", "list", "imports", "rows and threads")

OPENING = """\
# Benchmarks

<!-- Written by `python benchmarks/tables.py` from benchmarks/results: change the JSON or the script, not this page. -->

Each table comes from a JSON file that the command below it writes. Ratios are of contenders that took turns in one run;
absolute times depend on the machine and on what else runs there, which the line *CPU* says. [Measured
results](results.md) explains them and has those of quality.
"""

CLOSING = """\
## On a GPU

Nothing here was measured on a GPU: none was lent. [`benchmarks/gpu.sh`](../benchmarks/gpu.sh) measures one within nine
minutes, writes JSON as it goes, and is rehearsed on a CPU by a test. Goals: extraction at 90 % of the lesser of forward
and decode alone; three times lightly's training step; views under 15 % of a step.

<!-- not run: takes minutes, and a GPU for its numbers -->
```bash
DEVICE=cpu TINY=1 benchmarks/gpu.sh OUT
benchmarks/gpu.sh OUT
```
"""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        title: heading.
        file: JSON in ``benchmarks/results``.
        command: writes it.
        header: names of the columns; all but the first are aligned right.
        rows: makes the rows from the JSON.
        goal: what was aimed at.
        outcome: returns whether it is reached, or what limits it.
    """

    title: str
    file: str
    command: str
    header: Sequence[str]
    rows: Callable[[Any], Rows]
    goal: str
    outcome: Callable[[Any], str]

    def markdown(self) -> str:
        """Return the section."""
        found = json.loads((RESULTS / self.file).read_text())
        lines = [" | ".join(map(str, row)) for row in self.rows(found)]
        marks = ["---", *["---:"] * (len(self.header) - 1)]
        table = "\n".join(f"| {line} |" for line in [" | ".join(self.header), *lines])
        head, _, body = table.partition("\n")
        return "\n".join(
            [
                f"## {self.title}\n",
                f"Goal: {self.goal} {self.outcome(found)}\n",
                head,
                f"|{'|'.join(marks)}|",
                f"{body}\n",
                f"CPU: {cpu_of(found)}. JSON: [`{self.file}`](../benchmarks/results/{self.file}).\n",
                "<!-- not run: takes minutes to hours -->",
                f"```bash\n{self.command}\n```\n",
            ]
        )


def cpu_of(found: Any) -> str:
    """Return what a JSON file says of the CPU."""
    said = found.get("cpu") or found.get("machine") or {}
    kind = said.get("machine") or said.get("processor") or "x86_64"
    cores = said.get("cores") or found.get("cores")
    of_rows = [row["cpu"] for row in found.get("rows", []) if "cpu" in row]  # of calls on several machines
    kinds = list(dict.fromkeys(map(tuple, of_rows))) or [said.get("features", [])]
    features = " or ".join(", ".join(kind) or "instructions not recorded" for kind in kinds)
    load = said.get("load")
    return f"{kind}, {cores} cores; {features}" + ("" if load is None else f"; load {load:g} at the end")


def rates(found: Any) -> Rows:
    """Return images/s of each contender of ``extraction.py``, and its least cosine with the reference."""
    return [[name, f"{best['images_per_second']:.2f}", f"{best['cosine']:.5f}"] for name, best in found["best"].items()]


def ratio(value: float | None) -> str:
    """Return a ratio with two digits."""
    return "not measured" if value is None else f"{value:.2f}"


def scaled_over_timm(found: Any, peer: str) -> str:
    """Return how many times as fast ``--decode scaled`` in fp32 is as a peer of the same run."""
    best = found["best"]
    return ratio(best["zoo fp32 scaled"]["images_per_second"] / best[peer]["images_per_second"])


def training_rows(found: Any) -> Rows:
    """Return images/s of a training step by method."""
    rows = []
    for method, said in found["methods"].items():
        best = {name: f"{value['images_per_second']:.2f}" for name, value in said["best"].items()}
        share = f"{100 * said['views_share_of_step']:.1f} %"
        rows.append([method, best["zoo"], best["lightly"], best["bare"], ratio(said["zoo_over_lightly"]), share])
    return rows


def training_outcome(found: Any) -> str:
    """Return the ratios to lightly, and what limits them."""
    said = ", ".join(f"{name} {ratio(values['zoo_over_lightly'])}" for name, values in found["methods"].items())
    bare = ", ".join(
        f"{100 * values['best']['zoo']['images_per_second'] / values['best']['bare']['images_per_second']:.0f} %"
        for values in found["methods"].values()
    )
    least = min(values["zoo_over_lightly"] for values in found["methods"].values())
    reached = "Reached" if least >= 1.25 else "Not reached by all"
    return f"{reached}: {said}. The step runs at {bare} of the step without views: its convolutions are what is left."


def scale_rows(found: Any) -> Rows:
    """Return memory and seconds of each command by rows."""
    return [
        [f"{row['rows']:,}".replace(",", " "), name, f"{row[name]['peak_bytes'] / 1e9:.2f}", row[name]["seconds"]]
        for row in found["rows"]
        for name in ("first", "again", "parts", "part")
    ]


def scale_outcome(found: Any) -> str:
    """Return the most memory at the most rows."""
    last = found["rows"][-1]
    most = max(last[name]["peak_bytes"] for name in ("first", "again", "parts", "part")) / 1e9
    return f"{'Reached' if most < 2 else 'Not reached'}: {most:.2f} GB at {last['rows']:,} rows.".replace(",", " ")


def index_rows(found: Any) -> Rows:
    """Return build, start and query of each index."""
    return [
        [
            f"{one['rows']:,}".replace(",", " "),
            one["build"]["kind"],
            one["build"]["seconds"],
            f"{one['build']['peak_bytes'] / 1e9:.2f}",
            f"{one['build']['recall']:.4f}",
            f"{one['first']['open_seconds']:.2f} / {one['again']['open_seconds']:.2f}",
            f"{one['again']['query_ms']:.2f}",
        ]
        for one in found["indexes"]
    ]


def index_outcome(found: Any) -> str:
    """Return what a search loads."""
    loaded = sorted({name for one in found["indexes"] for name in (*one["first"]["loaded"], *one["again"]["loaded"])})
    kinds = {one["build"]["kind"] for one in found["indexes"]}
    most = {k: max(one["rows"] for one in found["indexes"] if one["build"]["kind"] == k) for k in sorted(kinds)}
    largest = ", ".join(f"{kind} {rows:,}".replace(",", " ") for kind, rows in most.items())
    return f"A search loads {', '.join(loaded) or 'none of them'}. The most vectors measured: {largest}."


def profile_rows(found: Any) -> Rows:
    """Return the time of an image and the share of each stage, by kind of files."""
    return [
        [
            f"[{name}](../benchmarks/results/{kind['flame_graph']}), {kind['images']:,} files".replace(",000", " 000"),
            f"{kind['seconds_to_first']:.1f}",
            f"{kind['milliseconds_an_image']:.2f}",
            *(f"{100 * kind['shares'].get(stage, 0):.1f} %" for stage in PROFILED),
        ]
        for name, kind in found["kinds"].items()
    ]


def profile_outcome(found: Any) -> str:
    """Return what reading and hashing take at most, and what takes most."""
    least = [100 * (kind["shares"].get("hash", 0) + kind["shares"].get("read", 0)) for kind in found["kinds"].values()]
    most = ", ".join(f"{name}: {next(iter(kind['shares']))}" for name, kind in found["kinds"].items())
    return f"Reading and hashing take at most {max(least):.1f} %. The largest part of each run: {most}."


def decoder_rows(found: Any) -> Rows:
    """Return rates, ratios to Pillow and equality of each decoder, for both sizes of files."""
    return [
        [
            f"{name} {found['versions'][name]}",
            *(text for size in found["sizes"].values() for text in _decoded(size[name])),
        ]
        for name in found["versions"]
    ]


def _decoded(row: Any) -> tuple[str, str, str]:
    return f"{row['files_per_second']:.1f}", ratio(row["times_pillow"]), f"{100 * row['equal']:.0f} %"


def decoder_outcome(found: Any) -> str:
    """Return the fastest decoder of equal pixels for each size of files."""
    best = {
        size: max(row["times_pillow"] for row in rows.values() if row["equal"] == 1)
        for size, rows in found["sizes"].items()
    }
    said = ", ".join(f"{ratio(value)} times Pillow ({size})" for size, value in best.items())
    kept = "Pillow stays: an array has to become its image first" if max(best.values()) < 1.25 else "Not adopted yet"
    return f"The fastest with equal pixels has {said}. {kept}."


def ray_rows(found: Any) -> Rows:
    """Return the rate and the start of both."""
    return [
        [name, f"{row['steady_images_per_second']:.1f}", f"{row['start_seconds']:.1f}"]
        for name, row in found["rows"].items()
    ]


def ray_outcome(found: Any) -> str:
    """Return the overhead, and whether it is small enough."""
    overhead = 100 * found["overhead"]
    return f"{'Reached' if overhead < 10 else 'Not reached'}: {overhead:+.1f} % on {found['machine']['cores']} cores."


def precision_rows(found: Any) -> Rows:
    """Return the accuracy of each engine and precision."""
    fp32 = {
        row["model"]: row["knn_accuracy"]
        for row in found["rows"]
        if row["backend"] == "torch" and row["precision"] == "fp32"
    }
    return [
        [
            f"{row['model']}, {row['backend']} {row['precision']}"
            + (f", {row['weight_bits']} bits" if "weight_bits" in row else ""),
            f"{row['knn_accuracy']:.1f}",
            f"{row['knn_accuracy'] - fp32[row['model']]:+.2f}",
            f"{row['same_nearest']:.1f} %",
        ]
        for row in found["rows"]
    ]


def precision_outcome(found: Any) -> str:
    """Return which int8 engines lose more."""
    lost = [row[0] for row in precision_rows(found) if "int8" in str(row[0]) and float(str(row[2])) < -0.5]
    return f"More is lost by {', '.join(map(str, lost)) or 'none'}: the command says so in a line."


def autocast_rows(found: Any) -> Rows:
    """Return milliseconds of a step by kind of work, in both precisions."""
    kinds = list(found["fp32"]["milliseconds"])
    rows = [[kind, *(f"{found[p]['milliseconds'][kind]:.1f}" for p in ("fp32", "bf16"))] for kind in kinds]
    return [*rows, ["all", *(f"{found[p]['all']:.1f}" for p in ("fp32", "bf16"))]]


def autocast_outcome(found: Any) -> str:
    """Return the gain of the convolutions, and what else bf16 costs."""
    fp32, bf16 = found["fp32"]["milliseconds"], found["bf16"]["milliseconds"]
    rest = sum(value for kind, value in bf16.items() if kind != "convolutions")
    return (
        f"Here {ratio(found['fp32']['all'] / found['bf16']['all'])} times. Convolutions gain "
        f"{ratio(fp32['convolutions'] / bf16['convolutions'])} times; with bf16 all else takes {rest:.0f} ms of "
        f"{found['bf16']['all']:.0f}, of which casts {bf16['casts and copies']:.0f}. Were convolutions free, the step "
        f"would be {ratio(found['fp32']['all'] / rest)} times as fast as in fp32."
    )


TABLES = [
    Table(
        "Extraction, ResNet-50 at 224 pixels",
        "extraction_r50.json",
        "python benchmarks/extraction.py --photos DIR --images 96 --model byol_r50.random --peers PEERS "
        "--json benchmarks/results/extraction_r50.json",
        ("contender", "images/s", "least cosine"),
        rates,
        "fp32 twice timm's best eager, int8 eight times.",
        lambda f: (
            f"fp32 {ratio(f['fp32_over_timm_eager'])} times, {ratio(f['fp32_over_its_limit'])} of the forward alone; "
            f"int8 {ratio(f['int8_over_timm_eager'])} times, {ratio(f['int8_over_its_limit'])} of it: "
            "the rest is decoding."
        ),
    ),
    Table(
        "Photographs of 12 megapixels",
        "extraction_12mp.json",
        "python benchmarks/extraction.py --photos examples/photos --images 8 --megapixels 12 --scaled "
        "--model simclr_r18_mini.tin32 --only zoo --engines onnx --json benchmarks/results/extraction_12mp.json",
        ("contender", "images/s", "least cosine"),
        rates,
        "as fast as the network allows: no peer scales while it decodes.",
        lambda f: (
            f"Scaled is {ratio(f['fp32_scaled_over_exact'])} times exact in fp32, "
            f"{ratio(f['int8_scaled_over_exact'])} in int8."
        ),
    ),
    Table(
        "Photographs of 12 megapixels, against timm and a DataLoader",
        "extraction_12mp_peers.json",
        "python benchmarks/extraction.py --photos examples/photos --images 8 --megapixels 12 --scaled "
        "--model simclr_r18_mini.tin32 --only zoo timm --engines onnx --rounds 2 --workers 0 2 "
        "--json benchmarks/results/extraction_12mp_peers.json",
        ("contender", "images/s", "least cosine"),
        rates,
        "five times timm's best with `--decode scaled`.",
        lambda f: (
            f"{scaled_over_timm(f, 'timm eager')} times eager, "
            f"{scaled_over_timm(f, 'timm compiled')} times compiled; "
            f"with every pixel decoded {ratio(f['fp32_over_timm_eager'])} times eager."
        ),
    ),
    Table(
        "OpenVINO",
        "openvino.json",
        "python benchmarks/extraction.py --photos examples/photos --images 24 --model simsiam_r50.random "
        "--only zoo limit --engines onnx openvino --json benchmarks/results/openvino.json",
        ("contender", "images/s", "least cosine"),
        rates,
        "bf16 five times timm's eager on a machine with AMX.",
        lambda f: (
            "This machine has no AMX: bf16 by AVX512-BF16 is "
            + ratio(f["best"]["zoo bf16"]["images_per_second"] / f["best"]["zoo fp32"]["images_per_second"])
            + " times fp32 from files to shards."
        ),
    ),
    Table(
        "Reduced precision on trained networks",
        "precision.json",
        "python benchmarks/precision.py --data flowers17 --json benchmarks/results/precision.json",
        ("model and engine", "kNN %", "points", "same nearest"),
        precision_rows,
        "int8 that loses more than half a point of kNN is not offered silently.",
        precision_outcome,
    ),
    Table(
        "JPEG decoders",
        "decoders.json",
        "python benchmarks/decoders.py --photos examples/photos --json benchmarks/results/decoders.json",
        ("decoder", "files/s", "times Pillow", "equal", "12 megapixels, files/s", "times Pillow", "equal"),
        decoder_rows,
        "the same pixels in less time, from bytes to the image that is resized.",
        decoder_outcome,
    ),
    Table(
        "Where the time of an extraction goes",
        "extraction_profile.json",
        "python benchmarks/extraction_profile.py --photos examples/photos --small 100000 "
        "--large 1000 --json benchmarks/results/extraction_profile.json",
        ("files", "first, s", "ms an image", *PROFILED),
        profile_rows,
        "the network and the decoder take nearly all of the time. Each name links to the flame graph of its run.",
        profile_outcome,
    ),
    Table(
        "Ray",
        "ray_overhead.json",
        "python benchmarks/ray_overhead.py --photos examples/photos --images 4096 16384 "
        "--json benchmarks/results/ray_overhead.json",
        ("4 local workers against 4 threads", "images/s", "start, s"),
        ray_rows,
        "an overhead below 10 %.",
        ray_outcome,
    ),
    Table(
        "Plans of many rows",
        "scale.json",
        "python benchmarks/scale.py 1000000 10000000 --json benchmarks/results/scale.json",
        ("rows", "command", "peak GB", "seconds"),
        scale_rows,
        "one plan of 10^7 rows within 2 GB a process.",
        scale_outcome,
    ),
    Table(
        "The index",
        "index.json",
        "python benchmarks/index.py 10000 1000000 --json benchmarks/results/index.json",
        ("vectors", "index", "build s", "build GB", "recall@10", "open s, first / again", "query ms"),
        index_rows,
        "a search starts within a second and imports neither torch nor timm nor transformers.",
        index_outcome,
    ),
    Table(
        "Training step, ResNet-18 at 64 pixels",
        "training_r18_cpu.json",
        "lightly/bin/python benchmarks/training.py --data tiny-imagenet --rounds 5 --steps 3 --warm-up 2 "
        "--json benchmarks/results/training_r18_cpu.json",
        ("method", "zoo, images/s", "lightly", "step alone", "zoo / lightly", "views"),
        training_rows,
        "1.25 times lightly.",
        training_outcome,
    ),
    Table(
        "Training step, ResNet-50 at 224 pixels",
        "training_r50_cpu.json",
        "lightly/bin/python benchmarks/training.py --data flowers17 --architecture r50 --size 224 --batch 16 "
        "--rounds 2 --steps 2 --warm-up 1 --workers 0 --json benchmarks/results/training_r50_cpu.json",
        ("method", "zoo, images/s", "lightly", "step alone", "zoo / lightly", "views"),
        training_rows,
        "1.25 times lightly.",
        training_outcome,
    ),
    Table(
        "bf16 by autocast on a CPU: where a step's time goes",
        "autocast_cpu.json",
        "python benchmarks/autocast_profile.py --json benchmarks/results/autocast_cpu.json",
        ("kind of work", "fp32, ms", "bf16, ms"),
        autocast_rows,
        "bf16 1.5 times as fast as fp32 at 64 pixels, or what prevents it.",
        autocast_outcome,
    ),
]


def page() -> str:
    """Return the page; a table whose JSON nobody has written yet is left out."""
    sections = [table.markdown() for table in TABLES if (RESULTS / table.file).is_file()]
    return "\n".join([OPENING, *sections, CLOSING])


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where it is out of date")
    if parser.parse_args().check:
        return int(not PAGE.is_file() or PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
