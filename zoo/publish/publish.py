"""Build a model repository that five loaders read, and upload it to a model hub as one commit.

The repository is the folder of ``zoo convert`` (``zoo.models.checkpoint_dir``) plus an ONNX file, a card and scores. It
is uploaded only after every loader that can be checked here gives the same embedding.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.errors import UserError
from zoo.hub import hf_upload, networks, weights
from zoo.hub.weights import WeightFile
from zoo.models import checkpoint_dir, registry
from zoo.models.model_config import CONFIG, MODEL, ModelConfig, needs_import
from zoo.publish import destination
from zoo.publish.card.block import marked, merged
from zoo.publish.card.facts import SAME, SAME_PHOTOGRAPH, Agreement, Facts, Int8
from zoo.publish.card.gather import hub_name, registry_facts, results_of, training_of
from zoo.publish.card.render import render
from zoo.publish.card.scores import evaluation_yaml
from zoo.publish.card.wording import DATA_SETS
from zoo.system.atomic_files import atomic_write_text, copy_file, make_folder
from zoo.transforms.preprocess import PILLOW

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto
    from PIL.Image import Image
    from torch import Tensor

    from zoo.inference.embedder import Embedder

ONNX, ONNX_INT8, CARD, SCORES = "model.onnx", "model_int8.onnx", "README.md", ".eval_results"
_PHOTOGRAPHS = Path(__file__).parents[1] / "bundled" / "parity"


@dataclass(frozen=True)
class PublishResult:
    """A repository that was built.

    Attributes:
        where: folder of a dry run, or URL of the repository.
        commit: the live revision; ``None`` for a dry run.
        files: sizes in bytes by name.
        agreement: measured differences between the loaders.
    """

    where: str
    commit: str | None
    files: dict[str, int]
    agreement: Agreement


def publish(
    model: str | Path,
    repository: str,
    *,
    dry_run: Path | None = None,
    private: bool = False,
    revision: str | None = None,
    results: Path | None = None,
    int8: bool = True,
    overwrite_card: bool = False,
) -> PublishResult:
    """Publish a model as ``repository``, or write the repository into the folder ``dry_run``.

    Args:
        model: a name, a folder of ``zoo convert``, or a file of ``zoo-train export``, as for ``zoo.load``.
        repository: ``ORG/NAME``.
        dry_run: a folder that does not exist or is empty; nothing is uploaded.
        private: create a new repository as private.
        revision: branch; default: the main one.
        results: folder with JSON of ``zoo evaluate`` for the card, all of this model; one of the registry has its own.
        int8: add an int8 ONNX file if it passes its parity check; the card states the outcome.
        overwrite_card: replace a card on the hub as a whole. Otherwise the text around its generated block is kept,
            and a card without such a block, or with an edited one, is refused.

    Raises:
        UserError: there are no such weights, they do not load strictly or are not finite, a loader gives another
            embedding, or the upload fails (``zoo.hub.hf_upload.upload``). The old revision stays live, or is live again
            unless the message says otherwise.
    """
    destination.require(repository, dry_run)
    file = locate(model)
    if dry_run is None:
        hf_upload.require_upload(repository)
    # Build the whole repository in a scratch folder.
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        agreement = build(file, folder, repository, results=results, int8=int8)
        files = destination.sizes(folder)
        # A dry run ends with the folder.
        if dry_run is not None:
            destination.keep(folder, dry_run)
            return PublishResult(str(dry_run), None, files, agreement)
        # Delete what an earlier run has published and this one no longer makes.
        owned = [*checkpoint_dir.FILES, ONNX, ONNX_INT8, *(f"{SCORES}/{d}.yaml" for d in DATA_SETS)]
        message = f"{file.name}, by siamese-zoo"
        card = marked((folder / CARD).read_text(encoding="utf-8"))
        atomic_write_text(folder / CARD, card)
        files[CARD] = (folder / CARD).stat().st_size
        done = hf_upload.upload(
            folder,
            repository,
            message=message,
            private=private,
            revision=revision,
            owned=owned,
            merge=None if overwrite_card else {CARD: lambda old: merged(old, card, repository)},
        )
        return PublishResult(done.url, done.commit, files, agreement)


def build(
    file: WeightFile, folder: Path, repository: str, *, results: Path | None = None, int8: bool = True
) -> Agreement:
    """Write all files of the repository into ``folder``, and compare the loaders on them.

    Raises:
        UserError: as ``publish``.
    """
    from zoo.export.export import Variant, export_onnx, trace_core
    from zoo.loading import load
    from zoo.models.resnet import encoder_state

    # weights and config
    if file.folder is not None:
        checkpoint_dir.verify(file.folder)
        make_folder(folder)
        for name in checkpoint_dir.FILES:
            if (file.folder / name).exists():
                copy_file(file.folder / name, folder / name)
    else:
        encoder = encoder_state(networks.load_encoder(file))
        checkpoint_dir.write(folder, _config(file, repository), encoder, file.exported_heads())
    facts = _facts(file, folder, repository, results)  # before minutes of work: a result can be of another model
    # the loaders, ONNX Runtime among them
    embedder = load(folder, device="cpu")  # checks hashes, keys, shapes and finite values
    agreement = compare_loaders(file, folder, embedder)
    core = trace_core(embedder)
    exported = export_onnx(embedder, folder / ONNX, Variant("crop"), photographs=photographs(), core=core)
    if not exported.parity <= SAME:
        raise UserError(f"model.onnx differs from torch by {exported.parity:.1e} (allowed {SAME:.0e}): not published")
    agreement = replace(agreement, onnx=exported.parity, int8=_int8(embedder, folder, core) if int8 else None)
    # the card and the scores
    facts = replace(facts, agreement=agreement)
    atomic_write_text(folder / CARD, render(facts))
    for name, text in evaluation_yaml(facts).items():
        make_folder(folder / SCORES)
        atomic_write_text(folder / SCORES / name, text)
    return agreement


def _int8(embedder: Embedder, folder: Path, core: ModelProto) -> Int8:
    """Write the int8 file if it passes its parity check; returns the outcome."""
    from zoo.export.export import INT8_COSINE, Variant, export_onnx

    try:
        exported = export_onnx(embedder, folder / ONNX_INT8, Variant("crop", "int8"), core=core)
    except UserError as error:
        return Int8(INT8_COSINE, None, refused=str(error))
    return Int8(INT8_COSINE, exported.cosine, exported.photographs)


def compare_loaders(file: WeightFile, folder: Path, embedder: Embedder) -> Agreement:
    """Compare the folder with its source, and timm's loader with ours; ONNX Runtime is compared elsewhere.

    timm resizes photographs with Pillow. For weights with TensorFlow's resize, the difference is measured for the card,
    and timm's transform is checked against Pillow's resize.

    Raises:
        UserError: a difference exceeds ``SAME``, or from the photograph ``SAME_PHOTOGRAPH``.
    """
    import timm
    import torch
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    from zoo.inference.images import as_rgb

    if needs_import(checkpoint_dir.read(folder).architecture):
        import zoo.timm_models  # noqa: F401

    # Embed the same photographs by our own loader.
    images = [as_rgb(p) for p in photographs()]
    ours = embedder.embed_pixels(np.stack([embedder.preprocessing.pixels(i) for i in images]))
    x = torch.stack([embedder.transform(i) for i in images])
    with torch.inference_mode():
        # the same pixels through the source's weights and through timm
        source = networks.load_encoder(file)(x).numpy()
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        same_pixels = loaded(x).numpy()
        # the photographs through timm's transform, and resized in floating point
        transform = create_transform(**resolve_model_data_config(loaded))  # type: ignore[no-untyped-call]
        in_mode = [
            i if embedder.preprocessing.channels == 3 else i.convert(embedder.preprocessing.mode) for i in images
        ]
        timm_transform = loaded(torch.stack([transform(i) for i in in_mode])).numpy()
        floats = embedder.model(torch.stack([_resized_in_floats(embedder, i) for i in images])).numpy()
    # Measure the differences.
    agreement = Agreement(len(images), _error(same_pixels, ours), _error(timm_transform, ours), _error(floats, ours))
    pillow = replace(embedder.preprocessing, resizing=PILLOW)
    by_pillow = embedder.embed_pixels(np.stack([pillow.pixels(i) for i in images]))
    # Refuse to publish what another loader would embed differently.
    for what, error, allowed in (
        ("the folder", _error(ours, source), SAME),
        ("timm", agreement.timm, SAME),
        ("timm with its own transform", _error(timm_transform, by_pillow), SAME_PHOTOGRAPH),
    ):
        if not error <= allowed:
            raise UserError(f"{what} gives another embedding, by {error:.1e} (allowed {allowed:.0e}): not published")
    return agreement


def photographs() -> list[Path]:
    """Return the photographs of the comparisons; they ship with the package."""
    return sorted(_PHOTOGRAPHS.glob("*.jpg"))


def locate(model: str | Path) -> WeightFile:
    """Return the weights to publish. UserError: they are of no model of the zoo, or random."""
    path = Path(model)
    if path.suffix in (".pt", ".pth") or (path.is_dir() and not (path / CONFIG).exists()):
        raise UserError(
            f"{model} is not a model of the zoo yet: `zoo-train export {model} --out encoder.safetensors` for a "
            "training run, `zoo convert` for an official file, then publish what they write"
        )
    file = weights.locate(path if path.is_dir() else model)
    if file.path is None:
        raise UserError(f"{file.name} has random weights: there is nothing to publish")
    return file


def _config(file: WeightFile, repository: str) -> ModelConfig:
    """Return the config for a lone file: bundled ones keep their name, a user's own takes the repository's."""
    base, tag = registry.split_name(file.name)
    known = base in registry.MODELS and tag is not None
    return ModelConfig(
        base if known else repository.partition("/")[2],
        tag if known else None,
        file.method,
        file.architecture,
        file.preprocessing,
        file.licence,
        file.source or (registry.MODELS[base].weights[tag].source if known and tag else ""),
    )


def _facts(file: WeightFile, folder: Path, repository: str, results: Path | None) -> Facts:
    # Take the registry's facts if it knows these weights.
    config = checkpoint_dir.read(folder)
    base, tag = config.name, config.tag
    registered = base in registry.MODELS
    if registered and tag in registry.MODELS[base].weights:
        facts = registry_facts(f"{base}.{tag}")
    else:
        facts = Facts(
            config.full_name,
            config.method,
            config.architecture,
            config.preprocessing,
            config.licence,
            config.source,
            config.sha256[MODEL],
            training=training_of(file),
        )
    # The repository's own facts replace those of the source. Results can be of the file, or of what is made of it.
    hashes = {sha256 for sha256 in (file.sha256, config.sha256[MODEL]) if sha256 is not None}
    return replace(
        facts,
        architecture=config.architecture,
        sha256=config.sha256[MODEL],
        repository=repository,
        hub_name=base if registered else hub_name(config.method, config.architecture),
        heads=sorted(config.heads),
        results=facts.results if results is None else results_of(results, config.architecture, hashes),
    )


def _resized_in_floats(embedder: Embedder, image: Image) -> Tensor:
    """Transform as ``Embedder.transform`` without rounding to bytes: with torch's resize, or with TensorFlow's."""
    import torch
    import torch.nn.functional as F

    # Crop first where TensorFlow does.
    preprocessing = embedder.preprocessing
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    if preprocessing.tf_bicubic:
        return (torch.from_numpy(preprocessing.float_pixels(image)).permute(2, 0, 1) / 255 - mean) / std
    # Otherwise resize without rounding, then crop the centre.
    x = torch.from_numpy(preprocessing.channels_of(image)).permute(2, 0, 1)[None].float() / 255
    scale = preprocessing.resize / min(x.shape[-2:])
    size = [max(preprocessing.resize, int(side * scale)) for side in x.shape[-2:]]
    x = F.interpolate(x, size=size, mode=preprocessing.interpolation, antialias=True).clamp(0, 1)
    top, left = (round((side - preprocessing.input_size) / 2) for side in size)
    x = x[..., top : top + preprocessing.input_size, left : left + preprocessing.input_size]
    return ((x - mean) / std)[0]


def _error(found: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    return float(np.abs(found - reference).max() / np.abs(reference).max())
