"""The public functions, re-exported by ``zoo``: ``load``, ``list_models`` and ``extract``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.loading import list_models, load
from zoo.models.registry import MODELS, split_name
from zoo.system.hardware import require_device_name
from zoo.system.preflight import require_folder
from zoo.transforms.limits import MAX_PIXELS, WHITE_16, Decode, DecodeOptions, Icc, Truncated

if TYPE_CHECKING:
    import torch

    from zoo.extraction.extraction import Extraction
    from zoo.extraction.partition import Partition
    from zoo.extraction.ray_executor import RayExecutor, RemoteModel
    from zoo.inference.embedder import Embedder
    from zoo.inference.outputs import Outputs
    from zoo.system.progress import Progress

_PATH_LIST = "images.txt"  # of paths that a program gave, in the folder of the run's state

__all__ = ["extract", "list_models", "load"]


def extract(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: str = "fp32",
    normalize: bool = False,
    outputs: Outputs | None = None,
    keep: Sequence[str] = (),
    format: str = "parquet",
    dtype: str = "float32",
    batch_size: int | None = None,
    shard_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    icc: Icc = "ignore",
    truncated: Truncated = "refuse",
    white16: int = WHITE_16,
    decode: Decode = "exact",
    image_column: str | None = None,
    dedupe: bool = False,
    near: float | str | None = None,
    update: bool = False,
    workers: int | None = None,
    partition: Partition | None = None,
    engine: str = "here",
    ray_address: str | None = None,
    progress: bool | Progress | None = None,
    on_open: Callable[[Embedder | RemoteModel], None] | None = None,
) -> Extraction:
    """Embed every image of the source ``images`` into ``out``; ``zoo extract`` does the same.

    A run that was killed is continued by the same call; a finished one is left as it is.

    Args:
        images: a folder, read recursively, or any other source of the table in ``zoo.sources``; or several paths or
            URLs of images, which are made absolute and kept in ``.zoo/images.txt`` of ``out``.
        out: folder for ``embeddings-*.parquet``, ``_manifest.json`` and ``_run.log.jsonl``.
        model: as ``name_or_path`` of ``load``; ``None`` is the model of the zoo that ``out`` was begun with, else
            the default.
        device, precision, normalize: as in ``load``.
        backend: as in ``load``; ``auto`` is the fastest on this machine.
        outputs: the outputs to write, as in ``load``; ``None`` is the embedding alone.
        keep: columns of the source to carry into the result.
        format: ``parquet``; or ``npy`` or ``safetensors`` for the vectors as [rows, D] in files beside the tables.
        dtype: type of the vectors written: ``float32`` or ``float16``.
        batch_size: crops in a forward pass; ``None`` is what ``out`` was begun with, else
            ``zoo.extraction.fingerprint.default_batch_size``.
        shard_size: images in a shard, which is held in memory; ``None`` is what ``out`` was begun with, else
            ``zoo.extraction.fingerprint.default_shard_size``.
        max_pixels: limit of pixels of one image; a larger one is refused and has a row that says so.
        icc: ``convert`` converts images with a colour profile to sRGB; ``ignore`` takes their numbers as they are.
        truncated: ``accept`` embeds what is there of a truncated JPEG, PNG, GIF, BMP or TIFF; its row has a note in
            the column ``error``.
        white16: value of white in 16-bit gray: 4095 where 12 bits are stored in 16.
        decode: ``scaled`` decodes large JPEGs to 1/2, 1/4 or 1/8 of their sides, at least twice what the resize needs:
            several times as fast for photographs of a camera, and embeddings move by less than 1 % of their length.
            ``exact`` decodes every pixel.
        image_column: column of a table that holds the images, or their paths; ``None`` finds it.
        dedupe: look for files with the same bytes first, and embed one of them; the others keep their rows, with
            status ``duplicate``. In the end pairs of embeddings that are near each other are written to
            ``_near_duplicates.parquet``. Without it no shard depends on another one.
        near: with ``dedupe`` the cosine from which on two embeddings are near each other. How near two images are
            depends on the model and on the collection, so ``"auto"`` centres the embeddings by their mean and chooses
            the cosine from the collection, see ``zoo.extraction.near_threshold``. ``None`` is what ``out`` already
            has, else ``"auto"``.
        update: take in added, changed and removed files instead of refusing them, and try again what could not be
            read. The result is that of a new run over the files as they are now, duplicates too; only the last digits
            of a vector can differ, where the network gives others in another batch.
        workers: threads that decode; ``None`` is one per core.
        partition: the shards that this process makes, as ``Partition(0, 8)``; ``None`` is all.
        engine: ``here``, or ``ray`` to make the shards on a Ray cluster.
        ray_address: address of a running Ray cluster; ``None`` is RAY_ADDRESS, or else a cluster started here.
        progress: show progress on stderr, or where to show it; ``None`` shows it in a terminal and in a notebook.
        on_open: called once with the open model, before the images are listed.

    Returns:
        Counts, failures and seconds.

    Raises:
        UserError: an argument, the images, ``out`` or the machine must change first.
    """
    from zoo.embeddings.plan import Plan
    from zoo.embeddings.shards import OutputFolder
    from zoo.extraction.executor import LoadArguments
    from zoo.extraction.extract import run_extraction
    from zoo.extraction.fingerprint import ExtractionConfig
    from zoo.extraction.partition import ALL_SHARDS
    from zoo.inference.outputs import Outputs, require_outputs
    from zoo.sources import open_source
    from zoo.sources.path_list import absolute_paths, write_path_list
    from zoo.sources.storage import is_url, require_readable_scheme

    out = _path("out", out)
    listed = None
    if isinstance(images, Iterable) and not isinstance(images, str | bytes | os.PathLike):
        listed = absolute_paths(images)
        images = str(OutputFolder(Path(out)).state / _PATH_LIST)
    images = _path("images", images)
    if model is not None and not isinstance(model, str | os.PathLike):
        raise UserError(f"model {model!r}: give the name or the path of a model")
    if outputs is not None:
        require_outputs(outputs)
    device = None if device is None else str(device)
    # Refuse options that contradict each other before a slow model opens.
    if engine not in ("here", "ray"):
        raise UserError(f"unknown engine {engine!r}: choose here or ray")
    if ray_address is not None and engine != "ray":
        raise UserError("--ray-address needs --engine ray")
    if engine == "ray" and str(images) == "-":
        raise UserError("a list on standard input cannot be read on a Ray cluster: write it to a file.txt")
    config = ExtractionConfig(
        keep=keep,
        format=format,
        dtype=dtype,
        batch_size=batch_size,
        shard_size=shard_size,
        max_pixels=max_pixels,
        decode=DecodeOptions(icc, truncated, white16, decode),
        image_column=image_column,
        dedupe=dedupe,
        near=near,
    )
    config.check()
    require_device_name(device)
    require_folder(Path(out))
    if is_url(os.fsencode(images)) and not images.startswith(
        "file://"
    ):  # a server is asked once, when the model is open
        require_readable_scheme(images)
    elif listed is None:
        open_source(images, config.keep, image_column=config.image_column).require_columns()
    begun = Plan.registered_model(OutputFolder(Path(out)).plan)
    if model is None:
        model = begun
    elif begun is not None:
        _require_same(begun, str(model), out)
    opening = LoadArguments(device, backend, precision, normalize, outputs or Outputs())
    # The stack closes the connection to Ray however the run ends.
    with ExitStack() as stack:
        executor: RayExecutor | None = None
        if engine == "ray":
            from zoo.extraction.ray_executor import connect

            executor = stack.enter_context(connect(ray_address, cores=workers or 1))
        # Show progress where somebody can see it.
        from zoo.system.progress import Progress, is_watched

        bar = progress if isinstance(progress, Progress) else None
        if progress is True or (progress is None and is_watched()):
            bar = stack.enter_context(Progress("images"))
        # Open the model where it will run.
        opened = opening.load(model) if executor is None else executor.open(model, opening)
        if on_open is not None:
            on_open(opened)
        if listed is not None:
            write_path_list(listed, Path(images))
        return run_extraction(
            images,
            out,
            model=opened,
            config=config,
            update=update,
            workers=workers,
            partition=partition or ALL_SHARDS,
            executor=executor,
            progress=bar,
        )


def _require_same(begun: str, model: str, out: str) -> None:
    """Refuse other weights of the registry than ``out`` was begun with, before they are downloaded.

    The plan finds any other difference, when the model is open.
    """
    base, tag = split_name(model)
    weights = MODELS[base].weights if base in MODELS else {}
    tag = tag or (MODELS[base].default_tag if weights else None)
    if tag in weights and f"{base}.{tag}" != begun:
        raise UserError(
            f"{out} differs in model {begun} there, {base}.{tag} now: add --model {begun}, or choose another --out"
        )


def _path(name: str, value: object) -> str:
    """Return a path as text with ``~`` expanded, as the commands do. Raises UserError: it is none."""
    if isinstance(value, str | os.PathLike) and isinstance(text := os.fspath(value), str):
        home = text == "~" or text.startswith(("~/", "~\\"))
        return os.path.expanduser(text) if home and not os.path.lexists(text) else text
    raise UserError(f"{name} is {'None' if value is None else f'of type {type(value).__name__}'}: give a path as text")
