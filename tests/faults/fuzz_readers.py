"""Mutate real small files and give them to one reader for some seconds; what it may answer is a value or a UserError.

    python tests/faults/fuzz_readers.py READER SECONDS [SEED]

READER is a key of ``READERS``. A process of its own reads the files, so that a crash or a hang is a find like any
other: its input is written to ``/tmp/find-READER-NUMBER``. Memory is limited to 3 GB of addresses beyond the start.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import multiprocessing
import pickle
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from hostile_files import mutated, npy, npz  # noqa: E402

from zoo.errors import UserError  # noqa: E402

VALUES: list[Any] = [
    *(None, True, -1, 0, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\x1b[31m\n", "x" * 5000),
    *([], {}, [[]], [1, 2, 3, 4], {"a": {}}, ["relu"], [["linear", 1 << 20, 1 << 20, True]] * 20),
]
MOST_MEMORY, MOST_SECONDS, MOST_SECONDS_OF_MAKING = 3 << 30, 10, 180
Reader = tuple[str, Callable[[Path], object], Callable[[], list[bytes]]]


def _golden(*names: str) -> list[bytes]:
    return [(TESTS / name).read_bytes() for name in names]


def _state() -> dict[str, Any]:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    return {"state_dict": {f"module.encoder.{k}": v for k, v in net.state_dict().items()}, "epoch": 3, "arch": "x"}


def _pickles() -> list[bytes]:
    arrays = {"a": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "n": [1, 2.5, None, True, "x", b"y"]}
    made = [pickle.dumps(arrays, protocol) for protocol in range(6)]
    return made + [data[:20_000] for data in _golden("goldens/byol_r14_free.init.pkl")]


def _torch_files() -> list[bytes]:
    made = []
    for form in (True, False):
        file = io.BytesIO()
        torch.save(_state(), file, _use_new_zipfile_serialization=form)
        made.append(file.getvalue())
    return made


def _checkpoints() -> list[bytes]:
    from training.recipes.config import to_json
    from training.recipes.table import find

    file = io.BytesIO()
    torch.save({"recipe": to_json(find("byol_r18_tin32")), "method": _state()["state_dict"], "step": 3}, file)
    return [file.getvalue()]


def _safetensors() -> list[bytes]:
    from zoo.hub.exported_encoder import save_encoder
    from zoo.models.registry import ARCHITECTURES
    from zoo.models.resnet import build_encoder, encoder_state
    from zoo.transforms.preprocess import Preprocessing

    state = encoder_state(build_encoder(ARCHITECTURES["cmc_r10"]))
    facts: dict[str, Any] = {"architecture": "cmc_r10", "method": "cmc", "licence": "MIT"}
    facts["preprocessing"] = Preprocessing(64, 73).to_json()
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate([None, *map(json.loads, _with_other_values(facts))]):
            path = Path(folder) / f"{number}.safetensors"
            with contextlib.suppress(TypeError, ValueError, UserError, AttributeError):
                save_encoder(path, state, text or facts)
                made.append(path.read_bytes())
            if len(made) == 40:
                break
    return made


def _configs() -> list[bytes]:
    from zoo.models.model_config import ModelConfig
    from zoo.models.registry import Architecture
    from zoo.transforms.preprocess import Preprocessing

    args: Any = {"preact": False, "layers": [1, 1, 1, 1], "width_factor": 0.0625}
    heads: Any = {"projector": [["linear", 8, 4, True], ["batch_norm", 4, True], ["relu"]]}
    architecture = Architecture("resnetv2_50", 128, 93_056, args)
    hashes = {"model.safetensors": "0" * 64}
    config = ModelConfig("n", None, "byol", architecture, Preprocessing(64, 73), "MIT", "s", heads, hashes)
    return [json.dumps(config.to_json()).encode(), *_with_other_values(config.to_json())]


def _with_other_values(tree: dict[str, Any]) -> list[bytes]:
    """The JSON with one value, at any depth, replaced by each of ``VALUES``."""
    made = []

    def visit(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            kept = node[key]
            for value in VALUES:
                node[key] = value
                made.append(json.dumps(tree).encode())
            node[key] = kept
            if isinstance(kept, dict | list):
                visit(kept)

    visit(tree)
    return made


def _tables() -> list[bytes]:
    table = pa.table({"path": ["a", "b"] * 50, "status": ["ok"] * 100, "v": [[1.0, 2.0]] * 100, "n": list(range(100))})
    made = []
    for options in ({}, {"use_dictionary": False}, {"data_page_version": "2.0", "compression": "zstd"}):
        file = io.BytesIO()
        pq.write_table(table, file, **options)
        made.append(file.getvalue())
    return made


def _npzs() -> list[bytes]:
    """Zips with good checksums over damaged arrays: the zip's own checksum refuses any damage of the whole file."""
    random, images, labels = np.random.default_rng(0), npy((2, 4, 4, 3), bytes(96)), npy((2,), bytes(16), "<i8")
    made = [npz(images=images, labels=labels)]
    made += [npz(images=mutated(images, random), labels=labels) for _ in range(400)]
    return made + [npz(images=images, labels=mutated(labels, random)) for _ in range(400)]


def _bundle() -> list[bytes]:
    import zipfile

    with zipfile.ZipFile(TESTS / "zoo" / "data" / "simclr_narrow.zip") as archive:
        return [archive.read(next(n for n in archive.namelist() if n.endswith(".index")))]


@cache
def _bundle_data() -> bytes:
    import zipfile

    with zipfile.ZipFile(TESTS / "zoo" / "data" / "simclr_narrow.zip") as archive:
        return archive.read(next(n for n in archive.namelist() if ".data-" in n))


def _onnx() -> list[bytes]:
    from faults.test_hostile_files import onnx_file

    return [onnx_file()]


def _h5() -> list[bytes]:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened.create_dataset("images", data=np.zeros((4, 3, 8, 8), np.uint8), chunks=(1, 3, 8, 8), compression="gzip")
        opened["depths"] = np.zeros((4, 8, 8), np.float32)
    return [file.getvalue()]


def _splits() -> list[bytes]:
    from scipy.io import savemat

    made = []
    for packed in (False, True):
        file = io.BytesIO()
        savemat(file, {"trainNdxs": np.array([[1], [2]]), "testNdxs": np.array([[3]])}, do_compression=packed)
        made.append(file.getvalue())
    return made


def _collection() -> Path:
    import made_collection

    out = Path(tempfile.mkdtemp()) / "out"
    told: Any = {"backend": "torch", "precision": "fp32", "normalize": False, "decoder": {"max_pixels": 1000}}
    made_collection.make(out, made_collection.clusters(5, 4), shard_size=3, frozen=True, dedupe={"near": 0.5}, **told)
    return out


def _plans() -> list[bytes]:
    return [(_collection() / ".zoo" / "plan.parquet").read_bytes()]


def _manifests() -> list[bytes]:
    tree = json.loads((_collection() / "_manifest.json").read_text())
    return [json.dumps(tree).encode(), *_with_other_values(tree)]


def _results() -> list[bytes]:
    folder = TESTS.parent / "model_cards" / "results" / "byol_r18_mini.tin32"
    tree = json.loads((folder / "knn.cifar10-jpeg.byol_r18_mini.json").read_text())
    tree.pop("details", None)
    return [json.dumps(tree).encode(), *_with_other_values(tree)]


def _images() -> list[bytes]:
    from pictures import encode, picture

    return [encode(picture(8, 8, seed), "PNG") for seed in range(4)]


def _tars() -> list[bytes]:
    import tarfile

    made = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for number, image in enumerate(_images()):
                long = "" if form == tarfile.USTAR_FORMAT else "x" * 120
                for name, data in ((f"{long}{number}.png", image), (f"{long}{number}.cls", b"%d" % number),
                                   (f"{long}{number}.json", b'{"label": 1, "a": [1, {"b": "c"}]}')):  # fmt: skip
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        made.append(file.getvalue())
    return made


def _image_tables() -> list[bytes]:
    columns = {"image": pa.array(_images(), pa.binary()), "label": [0, 1, 0, 1]}
    inside = {"image": [{"bytes": image, "path": None} for image in _images()], "label": [0, 1, 0, 1]}
    made = []
    for table in (columns, inside):
        file = io.BytesIO()
        pq.write_table(pa.table(table), file)
        made.append(file.getvalue())
    return made


def _arrow_streams() -> list[bytes]:
    sink = io.BytesIO()
    table = pa.table({"image": pa.array(_images(), pa.binary()), "label": [0, 1, 0, 1]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return [sink.getvalue()]


def _lists() -> list[bytes]:
    return [b"path,label\na.png,1\nb/c.png,0\n", b"path\tlabel\n" + bytes("\u00e9.png\tx\n", "utf-8"), b"path\n"]


def _json_lists() -> list[bytes]:
    return [b'{"path": "a.png", "label": 1}\n{"path": "b.png", "label": {"a": [1, 2]}}\n']


def _read_plan(path: Path) -> object:
    from zoo.embeddings.plan import Plan

    return Plan.load(path)


def _read_manifest(path: Path) -> object:
    from zoo.embeddings.manifest import read
    from zoo.embeddings.shards import OutputFolder
    from zoo.search.collection import Collection

    read(OutputFolder(path.parent))
    return Collection(path.parent)


def _read_result(path: Path) -> object:
    from zoo.report import render, tables

    built = tables.build(tables.load_results([path.parent]))
    return render.to_html(built, []), render.to_markdown(built, [])


def _read_samples(path: Path) -> object:
    from zoo.sources.tar_samples import samples

    return [sample.read() for sample in samples([path])]


def _read_source(path: Path, keep: tuple[str, ...] = ()) -> object:
    from zoo.sources import open_source
    from zoo.transforms.unreadable import UnreadableImage

    source = open_source(path, keep)
    for row in source.listing().files.to_pylist()[:100]:
        with contextlib.suppress(UnreadableImage):
            source.read(row)
    return source


def _read_kept(path: Path) -> object:
    return _read_source(path, ("cls", "label") if path.suffix == ".tar" else ("label",))


def _read_config(path: Path) -> object:
    from zoo.models.config_reader import read_config
    from zoo.models.head_spec import build_head

    config = read_config(path)
    with torch.device("meta"):
        return [build_head(layout) for layout in config.heads.values()]


def _read_pickle(path: Path) -> object:
    from zoo.convert.readers.safe_pickle import read_pickle

    with path.open("rb") as file:
        return read_pickle(file, path.name)


def _read_bundle(path: Path) -> object:
    from zoo.convert.readers.tf_checkpoint import read_bundle

    path.with_suffix(".data-00000-of-00001").write_bytes(_bundle_data())
    return read_bundle(path)


def _read_table(path: Path) -> object:
    from zoo.system.parquet import read_table

    try:
        return read_table(path, ["path", "status", "v"]).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError):  # its callers name the file
        return None


def _read_h5(path: Path) -> object:
    from scipy.io import savemat

    from zoo.evaluate.depth.data import _open_nyu

    path.rename(path.with_name("nyu_depth_v2_labeled.mat"))
    savemat(path.with_name("splits.mat"), {"trainNdxs": np.array([[1], [2]]), "testNdxs": np.array([[3]])})
    train, _ = _open_nyu(path.parent)
    return train.frame(0)


def _read_splits(path: Path) -> object:
    import h5py

    from zoo.evaluate.depth.data import _open_nyu

    path.rename(path.with_name("splits.mat"))
    with h5py.File(path.with_name("nyu_depth_v2_labeled.mat"), "w") as file:
        file["images"], file["depths"] = np.zeros((4, 3, 8, 8), np.uint8), np.zeros((4, 8, 8), np.float32)
    return _open_nyu(path.parent)


def _lazy(module: str, name: str, *more: object) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        return getattr(__import__(module, fromlist=[name]), name)(path, *more)

    return read


READERS: dict[str, Reader] = {
    "pickle": ("x.pkl", _read_pickle, _pickles),
    "torch-pickle": ("x.pkl", _lazy("zoo.convert.readers.torch_checkpoint", "read_torch"), _pickles),
    "torch": ("x.pth", _lazy("zoo.convert.readers.torch_checkpoint", "load_torch"), _torch_files),
    "torch-tree": ("x.pth", _lazy("zoo.convert.readers.torch_tree", "read_tree"), _torch_files),
    "checkpoint": ("x.pt", _lazy("training.engine.checkpoint", "read"), _checkpoints),
    "safetensors": ("x.safetensors", _lazy("zoo.hub.weights", "locate"), _safetensors),
    "config": ("config.json", _read_config, _configs),
    "bundle": ("x.index", _read_bundle, _bundle),
    "parquet": ("x.parquet", _read_table, _tables),
    "npy": ("x.npy", _lazy("zoo.datasets.npz", "open_npy"), lambda: [npy((2, 4, 4, 3), bytes(96))]),
    "npz": ("x.npz", _lazy("zoo.datasets.npz", "open_npz", "train"), _npzs),
    "onnx": ("x.onnx", _lazy("zoo.inference.onnx_backend", "OnnxEngine"), _onnx),
    "h5": ("x.h5", _read_h5, _h5),
    "mat": ("x.mat", _read_splits, _splits),
    "plan": ("plan.parquet", _read_plan, _plans),
    "manifest": ("_manifest.json", _read_manifest, _manifests),
    "result": ("result.json", _read_result, _results),
    "tar": ("x.tar", _read_kept, _tars),
    "tar-labels": ("x.tar", _read_samples, _tars),
    "image-table": ("x.parquet", _read_kept, _image_tables),
    "arrow": ("x.arrow", _read_kept, _arrow_streams),
    "list": ("x.csv", _read_kept, _lists),
    "json-list": ("x.jsonl", _read_kept, _json_lists),
}


def _inputs(seeds: list[bytes], seed: int) -> Iterator[bytes]:
    yield from seeds
    random = np.random.default_rng(seed)
    while True:
        data = seeds[int(random.integers(len(seeds)))]
        if len(seeds) < 100 or random.random() < 0.3:
            data = mutated(data, random)
        yield mutated(data, random) if random.random() < 0.3 else data


def _work(reader: str, seed: int, start: int, seconds: float, progress: Any, folder: Path) -> None:
    """Read inputs from number ``start`` on.

    ``progress`` is (number, time of its start, what was accepted, time of the end); the end is 0 until the real files
    are made, which takes a minute on busy cores.
    """
    faulthandler.enable()
    warnings.simplefilter("ignore")
    name, read, make = READERS[reader]
    seeds = make()
    progress[3] = progress[3] or time.time() + seconds
    for number, data in enumerate(_inputs(seeds, seed)):
        if time.time() > progress[3]:
            return
        if number < start:
            continue
        place = folder / str(number)
        place.mkdir()
        (place / name).write_bytes(data)
        progress[0], progress[1] = number, time.time()
        if number == start + 20:  # everything is imported
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, used + MOST_MEMORY))
        try:
            read(place / name)
            progress[2] += 1
        except UserError as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                raise AssertionError(f"not one line: {error}") from None
        for file in place.iterdir():
            file.unlink()
        place.rmdir()


def _entry(*arguments: Any) -> None:
    try:
        _work(*arguments)
    except BaseException:
        traceback.print_exc()
        raise


def fuzz(reader: str, seconds: float, seed: int = 0) -> list[Path]:
    """Return the files of the finds; ``seconds`` are those of reading."""
    context = multiprocessing.get_context("fork")
    progress = context.Array("d", [0, time.time(), 0, 0])
    start, finds = 0, list[Path]()
    with tempfile.TemporaryDirectory() as folder:
        while (not progress[3] or time.time() < progress[3]) and len(finds) < 10:
            progress[1] = time.time()
            child = context.Process(target=_entry, args=(reader, seed, start, seconds, progress, Path(folder)))
            child.start()
            while child.is_alive() and time.time() - progress[1] < MOST_SECONDS + (
                MOST_SECONDS_OF_MAKING if progress[0] == start else 0
            ):
                child.join(0.5)
            if child.is_alive():
                child.kill()
            child.join()
            number = int(progress[0])
            if child.exitcode != 0:
                place = Path(folder) / str(number)
                places = list(place.iterdir()) if place.exists() else []
                if not places:
                    break
                find = Path(tempfile.gettempdir()) / f"find-{reader}-{number}{places[0].suffix}"
                find.write_bytes(places[0].read_bytes())
                finds.append(find)
                print(f"{reader}: {find}, exit {child.exitcode}", flush=True)
            start = number + 1
    if not progress[2]:
        raise RuntimeError(f"{reader}: none of {int(progress[0])} inputs was accepted, not even the real files")
    print(f"{reader}: {int(progress[0])} inputs in {seconds:.0f} s, {int(progress[2])} read, {len(finds)} finds")
    return finds


if __name__ == "__main__":
    sys.exit(bool(fuzz(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)))
