"""From a name or a path to verified weights: bundled file or local safetensors -> encoder in memory.

A file is hashed before it is parsed, and its keys, shapes and values are checked before it is used. Nothing here
falls back to random weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.models import checkpoint_dir, registry
from zoo.models.licences import announce
from zoo.models.registry import ARCHITECTURES, Architecture
from zoo.models.state_dict import (
    check_state,
    half_of,
    read_metadata,
    read_tensors,
    require_equal,
    require_finite,
    without_counters,
)
from zoo.system.atomic_files import atomic_write_bytes, sha256_file
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.models.head_spec import Heads

BUNDLED = Path(__file__).parents[1] / "bundled"
FORMAT = "siamese-zoo encoder 1"
FORMAT_2 = "siamese-zoo encoder 2"  # names a padding or project_first, which versions before 0.3 would ignore
RANDOM = "random"  # as a tag: a network without weights, for baselines and tests


@dataclass(frozen=True)
class WeightFile:
    """Weights on this machine, located and hashed but not yet read.

    Attributes:
        path: ``None`` for ``NAME.random``, which has no file.
        name: ``NAME.tag`` of the registry, or the file's stem.
        sha256: of the file.
    """

    path: Path | None
    name: str
    sha256: str | None
    method: str
    architecture: Architecture
    preprocessing: Preprocessing
    licence: str
    source: str = ""
    folder: Path | None = None  # the converted model that the file is part of, see ``zoo.models.checkpoint_dir``

    @property
    def heads(self) -> Path | None:
        """The file of projector and predictor, where there is one."""
        path = self.folder / checkpoint_dir.HEADS if self.folder else None
        return path if path and path.is_file() else None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the heads in it, of ``zoo.models.head_spec.PARTS``; no tensor is read for that."""
        return tuple(checkpoint_dir.read(self.folder).heads) if self.folder and self.heads else ()

    @property
    def heads_sha256(self) -> str | None:
        """Of the file of heads."""
        return checkpoint_dir.read(self.folder).sha256.get(checkpoint_dir.HEADS) if self.folder else None


def is_path(model: str | Path) -> bool:
    """Whether ``model`` means a file or a folder of ``zoo convert``: by its form, or because one stands here."""
    text = str(model)
    if is_hub_reference(model):
        return False
    if isinstance(model, Path) or "/" in text or text.endswith((".safetensors", ".onnx")) or Path(text).is_file():
        return True
    return registry.split_name(text)[0] not in registry.MODELS and (Path(text) / checkpoint_dir.CONFIG).is_file()


def is_hub_reference(model: str | Path) -> bool:
    """Whether ``model`` means a repository of a model hub: ``hf-hub:ORG/NAME``, ``hf-hub:ORG/NAME@REVISION``."""
    return str(model).startswith("hf-hub:")


def locate(model: str | Path, *, pretrained: bool = True) -> WeightFile:
    """The file behind a registry name (``NAME`` or ``NAME.tag``), a path, or a hub reference, which is downloaded.

    Official weights that are not in the cache folder yet are downloaded and converted (``zoo.hub.pretrained``).
    ``pretrained=False``, or the tag ``random``, asks for the architecture of a name without weights.

    Raises:
        UserError: unknown name or tag, no released weights (the message says how to train them), a file that is
            missing, has another hash than the registry says, or was not written by ``zoo-train export``; or official
            weights cannot be fetched (``zoo.hub.pretrained``). For a hub reference see
            ``zoo.hub.hf_download.download``.
    """
    if not pretrained and is_hub_reference(model):
        raise UserError(f"{model} has weights: pretrained=False takes a name of `zoo list`")
    if is_hub_reference(model):
        return _from_hub(str(model))
    if is_path(model):
        if not pretrained:
            raise UserError(f"{model} is a file of weights: pretrained=False takes a name of `zoo list`")
        return _folder(checkpoint_dir.verify(Path(model)), Path(model)) if Path(model).is_dir() else _local(Path(model))
    name = str(model)
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if not pretrained or tag == RANDOM:
        like = spec.weights.get(tag or "") or next(iter(spec.weights.values()), None)
        preprocessing = like.preprocessing if like else registry.IMAGENET_224
        architecture = ARCHITECTURES[spec.architecture]
        return WeightFile(None, f"{spec.name}.{RANDOM}", None, spec.method, architecture, preprocessing, "none")
    if tag is None:
        raise UserError(
            f"{spec.name} has no released weights: train them with `zoo-train run {spec.recipe} --data DATA --out RUN` "
            "and load the file that `zoo-train export` writes, or ask for pretrained=False"
        )
    if tag not in spec.weights:
        known = ", ".join(spec.weights) or "none"
        raise UserError(f"{spec.name} has no weights {tag!r}; its tags: {known}")
    weights = spec.weights[tag]
    if not weights.bundled:
        from zoo.hub.pretrained import fetch

        folder = fetch(spec, tag)
        return _folder(checkpoint_dir.read(folder), folder)  # its hashes are checked there
    path = BUNDLED / weights.location.removeprefix("bundled:")
    sha256 = _hash(path)
    if sha256 != weights.sha256:
        raise UserError(f"{path.name} does not have the sha256 of the registry: install the package again")
    architecture = replace(ARCHITECTURES[spec.architecture], padding=weights.padding)
    return WeightFile(
        path, f"{spec.name}.{tag}", sha256, spec.method, architecture, weights.preprocessing, weights.licence
    )


def load_encoder(file: WeightFile) -> nn.Module:
    """The encoder with these weights, float32, in eval mode; without a file, initialised from seed 0.

    Raises:
        UserError: missing or extra keys, other shapes, or values that are not finite; the keys are named.
    """
    import torch

    from zoo.models.resnet import build_encoder

    if file.path is None:
        with torch.random.fork_rng(devices=[]):  # the caller's random state is not ours to change
            torch.manual_seed(0)
            return build_encoder(file.architecture).eval()
    announce(file.name, file.licence, file.source)
    state, _ = read_tensors(file.path)
    check_state(state, file.architecture, file.path.name)
    with torch.device("meta"):  # initialising what is about to be overwritten takes seconds on the large ones
        encoder = build_encoder(file.architecture).eval()
    encoder.to_empty(device="cpu")
    encoder.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    for name, buffer in encoder.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()
    return encoder


def load_heads(file: WeightFile) -> Heads | None:
    """Projector, predictor and what else a converted model holds, float32, in eval mode; None where it has none.

    Raises:
        UserError: as ``load_encoder``.
    """
    from zoo.models.head_spec import PARTS, Heads, build_head

    if file.folder is None or file.heads is None:
        return None
    layouts = checkpoint_dir.read(file.folder).heads
    if unknown := sorted(set(layouts) - set(PARTS)):
        raise UserError(f"{file.folder}: heads {unknown} are not known to this version")
    state, _ = read_tensors(file.heads)
    require_finite(state, file.heads.name)
    modules = {part: build_head(layout) for part, layout in layouts.items()}
    expected = {f"{part}.{k}": v.shape for part, m in modules.items() for k, v in m.state_dict().items()}
    require_equal({k: v.shape for k, v in state.items()}, without_counters(expected), file.heads.name)
    for part, module in modules.items():
        own = {k.removeprefix(f"{part}."): v.float() for k, v in state.items() if k.startswith(f"{part}.")}
        module.load_state_dict(own, strict=False)
    return Heads(**modules)


def save_encoder(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any], *, half: bool = False) -> str:
    """Writes an encoder as safetensors that ``locate`` reads back, atomically; returns its sha256.

    Args:
        metadata: ``architecture`` (a key of the registry, or a dict of that ``name`` and a ``stem``; also a
            ``padding`` and ``project_first`` in a file of ``FORMAT_2``), ``method``,
            ``preprocessing``, ``licence`` and what else should travel with it.
        half: convolutions in float16; BN stays float32, whose running variances would lose their small values.
    """
    from safetensors.torch import save

    tensors = half_of(state, half=half)
    texts = {"format": FORMAT} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    atomic_write_bytes(path, save(tensors, metadata=texts))
    return sha256_file(path)


def _from_hub(text: str) -> WeightFile:
    from zoo.hub import hf_download

    reference = hf_download.Reference.parse(text)
    snapshot = hf_download.download(
        reference, checkpoint_dir.CONFIG, lambda path: checkpoint_dir.read_config(path).sha256
    )
    file = _folder(checkpoint_dir.read(snapshot.folder), snapshot.folder)
    return replace(file, source=str(hf_download.Reference(snapshot.repo, snapshot.commit)))


def _folder(described: checkpoint_dir.Description, folder: Path) -> WeightFile:
    return WeightFile(
        folder / checkpoint_dir.MODEL,
        described.full_name,
        described.sha256[checkpoint_dir.MODEL],
        described.method,
        described.architecture,
        described.preprocessing,
        described.licence,
        described.source,
        folder,
    )


def _local(path: Path) -> WeightFile:
    sha256 = _hash(path)
    metadata = read_metadata(path)
    if metadata.get("format") not in (FORMAT, FORMAT_2):
        raise UserError(f"{path} was not written by `zoo-train export`: it does not say its architecture")
    try:
        architecture = _architecture(metadata["architecture"])
        preprocessing = Preprocessing.from_json(json.loads(metadata["preprocessing"]))
        method, licence, source = metadata["method"], metadata["licence"], metadata.get("source", "")
        return WeightFile(path, path.stem, sha256, method, architecture, preprocessing, licence, source)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} has metadata that this version does not understand ({error!r})") from None


def _architecture(text: str) -> Architecture:
    """Parse a name of the registry, or JSON of ``save_encoder``'s dict; the file is not trusted."""
    if not text.startswith("{"):
        return ARCHITECTURES[text]
    values = json.loads(text)
    stem, padding, project_first = (
        values["stem"],
        values.get("padding", "symmetric"),
        values.get("project_first", False),
    )
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"unknown stem {stem!r}")
    if padding not in ("symmetric", "same", "same-pool"):
        raise ValueError(f"unknown padding {padding!r}")
    known = ARCHITECTURES[values["name"]]
    if project_first is not False and (project_first is not True or known.timm_name != "resnet18"):
        raise ValueError(f"project_first={project_first!r} of {values['name']}")
    return replace(known, stem=stem, padding=padding, project_first=project_first)


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"no weights at {path} ({error.strerror})") from None
