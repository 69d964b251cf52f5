"""Find the weights behind a registry name, a path or a hub reference, verify them, and load them into an encoder.

A file is hashed before it is parsed, and its keys, shapes and values are checked before they are used. Nothing here
falls back to random weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError, reason_of
from zoo.models import checkpoint_dir, registry
from zoo.models.licences import announce
from zoo.models.model_config import (
    CONFIG,
    HEADS,
    MODEL,
    ModelConfig,
    line_of_text,
    read_config,
    require_bounded_args,
)
from zoo.models.other_files import refuse_others
from zoo.models.registry import ARCHITECTURES, PROJECTED, Architecture
from zoo.models.state_dict import (
    check_state,
    half_of,
    read_metadata,
    read_tensors,
    require_equal,
    require_finite,
    to_safetensors,
    without_counters,
)
from zoo.system.atomic_files import atomic_write_bytes, sha256_file
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.models.head_spec import EncoderHeads

BUNDLED = Path(__file__).parents[1] / "bundled"
FORMAT = "siamese-zoo encoder 1"
FORMAT_2 = "siamese-zoo encoder 2"  # names a padding or project_first, which versions before 0.3 would ignore
HEADS_SUFFIX = ".heads.safetensors"  # of the file of heads beside an exported encoder
RANDOM = "random"  # tag of a randomly initialised network, for baselines and tests


@dataclass(frozen=True)
class WeightFile:
    """Weights on this machine, located and hashed but not yet read.

    Attributes:
        path: safetensors file of the encoder; ``None`` for ``NAME.random``, which has no file.
        name: ``NAME.tag`` of the registry, or the file's stem.
        sha256: hash of the file; ``None`` without a file.
        method: ``byol``, ``simsiam``, ``simclr``, ``moco``, ``swav`` or ``unknown``.
        licence: SPDX name.
        source: origin of the weights, "" if unknown.
        folder: the converted model that the file belongs to (``zoo.models.checkpoint_dir``), ``None`` for a lone file.
    """

    path: Path | None
    name: str
    sha256: str | None
    method: str
    architecture: Architecture
    preprocessing: Preprocessing
    licence: str
    source: str = ""
    folder: Path | None = None

    @property
    def heads_path(self) -> Path | None:
        """The safetensors file of projector and predictor; ``None`` where there is none.

        Beside a file ``NAME.safetensors`` of ``zoo-train export`` it is ``NAME.heads.safetensors``.
        """
        if self.folder is not None:
            path: Path | None = self.folder / HEADS
        else:
            path = None if self.path is None else self.path.with_suffix(HEADS_SUFFIX)
        return path if path and path.is_file() else None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the heads in ``heads_path``, of ``zoo.models.head_spec.PARTS``."""
        if self.heads_path is None:
            return ()
        return tuple(checkpoint_dir.read(self.folder).heads) if self.folder else tuple(head_states(self))

    @property
    def heads_sha256(self) -> str | None:
        """Hash of ``heads_path``; that of a folder is read from ``config.json``."""
        if self.folder is not None:
            return checkpoint_dir.read(self.folder).sha256.get(HEADS)
        return None if self.heads_path is None else sha256_file(self.heads_path)


def is_path(model: str | Path) -> bool:
    """True if ``model`` names a file or a folder of ``zoo convert``, by its form or because such a one exists here."""
    text = str(model)
    if is_hub_reference(model):
        return False
    if isinstance(model, Path) or "/" in text or text.endswith((".safetensors", ".onnx")) or Path(text).is_file():
        return True
    return registry.split_name(text)[0] not in registry.MODELS and (Path(text) / CONFIG).is_file()


def is_hub_reference(model: str | Path) -> bool:
    """True for ``hf-hub:ORG/NAME`` and ``hf-hub:ORG/NAME@REVISION``, a repository on a model hub."""
    return str(model).startswith("hf-hub:")


def locate(model: str | Path, *, pretrained: bool = True) -> WeightFile:
    """Find and hash the weights of a registry name, a path or a hub reference.

    Official weights that are not in the cache folder yet are downloaded and converted (``zoo.hub.pretrained``), and a
    hub reference is downloaded (``zoo.hub.hf_download``).

    Args:
        model: ``NAME`` or ``NAME.tag`` of the registry, ``hf-hub:ORG/NAME@REVISION``, a folder of ``zoo convert``, or a
            file of ``zoo-train export``.
        pretrained: ``False``, like the tag ``random``, gives the architecture of a name without weights.

    Raises:
        UserError: the name or tag is unknown, no weights are released (the message says how to train them), a file is
            missing, has another hash than the registry states or was not written by ``zoo-train export``, or a download
            fails.
    """
    if is_hub_reference(model) or is_path(model):
        if not pretrained:
            has = "has weights" if is_hub_reference(model) else "is a file of weights"
            raise UserError(f"{model} {has}: pretrained=False takes a name of `zoo list`")
        if is_hub_reference(model):
            return _from_hub(str(model))
        path = Path(model)
        if not (path / CONFIG).is_file():
            refuse_others(path)
        return _from_folder(checkpoint_dir.verify(path), path) if path.is_dir() else _from_file(path)
    return _from_registry(str(model), pretrained=pretrained)


def _from_registry(name: str, *, pretrained: bool) -> WeightFile:
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    # A random network takes the preprocessing of its trained sibling.
    if not pretrained or tag == RANDOM:
        like = spec.weights.get(tag or "") or next(iter(spec.weights.values()), None)
        preprocessing = like.preprocessing if like else registry.IMAGENET_224
        architecture = ARCHITECTURES[spec.architecture]
        return WeightFile(None, f"{spec.name}.{RANDOM}", None, spec.method, architecture, preprocessing, "none")
    # Say what to do where there is nothing to load.
    if tag is None:
        raise UserError(
            f"{spec.name} has no released weights: {spec.name}.{RANDOM} is the untrained network; or train them with "
            f"`zoo-train run {spec.recipe} --data DATA --out RUN` and load the file that `zoo-train export` writes"
        )
    if tag not in spec.weights:
        known = ", ".join(spec.weights) or "none"
        raise UserError(f"{spec.name} has no weights {tag!r}; its tags: {known}")
    # Official weights are downloaded and converted.
    weights = spec.weights[tag]
    if not weights.bundled:
        from zoo.hub.pretrained import fetch

        folder = fetch(spec, tag)  # verifies the hashes
        return _from_folder(checkpoint_dir.read(folder), folder)
    # Bundled weights lie in the package.
    path = BUNDLED / weights.location.removeprefix("bundled:")
    sha256 = _hash(path)
    if sha256 != weights.sha256:
        raise UserError(f"{path.name} does not have the sha256 of the registry: install the package again")
    architecture = replace(ARCHITECTURES[spec.architecture], padding=weights.padding)
    return WeightFile(
        path, f"{spec.name}.{tag}", sha256, spec.method, architecture, weights.preprocessing, weights.licence
    )


def load_encoder(file: WeightFile) -> nn.Module:
    """Build the encoder and load its weights, float32, in eval mode; without a file, initialise it from seed 0.

    Raises:
        UserError: keys are missing or unknown, shapes differ, or values are not finite; the message names a key.
    """
    import torch

    from zoo.models.resnet import build_encoder

    # A random network is the same one each time.
    if file.path is None:
        with torch.random.fork_rng(devices=[]):  # the caller's random state stays unchanged
            torch.manual_seed(0)
            return build_encoder(file.architecture).eval()
    # Read the tensors and compare them with the architecture.
    announce(file.name, file.licence, file.source)
    state, _ = read_tensors(file.path)
    check_state(state, file.architecture, file.path.name)
    state = {k: v.float() for k, v in state.items()}
    # Buffers that no file holds, such as the positions in a window, come from the constructor.
    if not file.architecture.is_resnet:
        with torch.random.fork_rng(devices=[]):
            encoder = build_encoder(file.architecture).eval()
        encoder.load_state_dict(state, strict=False)
        _zero_counters(encoder)
        return encoder
    # No initialisation of weights that are about to be replaced: it takes seconds for the large networks.
    with torch.device("meta"):
        encoder = build_encoder(file.architecture).eval()
    encoder.to_empty(device="cpu")
    encoder.load_state_dict(state, strict=False)
    _zero_counters(encoder)
    return encoder


def load_heads(file: WeightFile) -> EncoderHeads | None:
    """Load projector, predictor and further heads of a converted model, float32, in eval mode; ``None`` without any.

    Raises:
        UserError: as ``load_encoder``.
    """
    import torch

    from zoo.models.head_spec import PARTS, EncoderHeads, build_head

    # Not every file has heads.
    if file.heads_path is None:
        return None
    if file.folder is None:
        return _load_companion(file)
    layouts = checkpoint_dir.read(file.folder).heads
    if unknown := sorted(set(layouts) - set(PARTS)):
        raise UserError(f"{file.folder}: heads {str(unknown)[:100]} are not known to this version")
    state, _ = read_tensors(file.heads_path)
    require_finite(state, file.heads_path.name)
    # The config decides the sizes: compare keys and shapes with the file before any memory is taken.
    with torch.device("meta"):
        modules = {part: build_head(layout) for part, layout in layouts.items()}
    expected = {f"{part}.{k}": v.shape for part, m in modules.items() for k, v in m.state_dict().items()}
    require_equal({k: v.shape for k, v in state.items()}, without_counters(expected), file.heads_path.name)
    for part, module in modules.items():
        own = {k.removeprefix(f"{part}."): v.float() for k, v in state.items() if k.startswith(f"{part}.")}
        module.to_empty(device="cpu")
        module.load_state_dict(own, strict=False)
        _zero_counters(module)
    return EncoderHeads(**modules)


def head_states(file: WeightFile) -> dict[str, dict[str, Tensor]]:
    """Return the heads beside a file of ``zoo-train export`` by part, with the keys of an ``nn.Sequential``.

    Parts of a method of one's own that are no plain sequence of layers are left out.

    Raises:
        UserError: the heads belong to another encoder, or the file cannot be read.
    """
    from zoo.models.head_spec import PARTS, build_head, read_layout

    if file.folder is not None or file.heads_path is None:
        return {}
    state, metadata = read_tensors(file.heads_path)
    if metadata.get("encoder_sha256") != file.sha256:
        raise UserError(
            f"{file.heads_path} does not belong to {file.path}: export both again, or move the file of heads away"
        )
    found = {}
    for part in PARTS:
        own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
        own = without_counters(own)
        if set(own) <= {"weight", "bias"}:  # a single layer: SwAV's prototypes, a classifier
            own = {f"0.{key}": value for key, value in own.items()}
        try:
            layout = read_layout(own)
            expected = {k: v.shape for k, v in build_head(layout).state_dict().items()}
        except (ValueError, KeyError, UserError):
            continue
        if without_counters(expected) == {k: v.shape for k, v in own.items()}:
            found[part] = own
    return found


def _load_companion(file: WeightFile) -> EncoderHeads | None:
    from zoo.models.head_spec import EncoderHeads, build_head, read_layout

    modules = {}
    for part, state in head_states(file).items():
        require_finite(state, f"{file.name}: {part}")
        modules[part] = build_head(read_layout(state))
        modules[part].load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    return EncoderHeads(**modules) if modules else None


def _zero_counters(module: nn.Module) -> None:
    """Set BN's counters, which a file may lack and ``to_empty`` leaves undefined."""
    for name, buffer in module.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()


def save_encoder(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, object], *, half: bool = False) -> str:
    """Write an encoder, atomically, as a safetensors file that ``locate`` reads; returns its sha256.

    Args:
        metadata: ``architecture`` (a key of the registry, or a dict with such a ``name`` and a ``stem``; in a file of
            ``FORMAT_2`` also a ``padding`` and ``project_first``; for a timm name beside the registry also its
            ``model_args``, ``num_features`` and ``parameters``), ``method``, ``preprocessing``, ``licence``, and
            further JSON values that belong to the file.
        half: store convolutions in float16; BN stays float32.
    """
    tensors = half_of(state, half=half)
    texts = {"format": FORMAT} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    atomic_write_bytes(path, to_safetensors(tensors, texts))
    return sha256_file(path)


def _from_hub(text: str) -> WeightFile:
    from zoo.hub import hf_download

    reference = hf_download.Reference.parse(text)
    snapshot = hf_download.download(reference, CONFIG, lambda path: read_config(path).sha256)
    file = _from_folder(checkpoint_dir.read(snapshot.folder), snapshot.folder)
    return replace(file, source=str(hf_download.Reference(snapshot.repo, snapshot.commit)))


def _from_folder(config: ModelConfig, folder: Path) -> WeightFile:
    return WeightFile(
        folder / MODEL,
        config.full_name,
        config.sha256[MODEL],
        config.method,
        config.architecture,
        config.preprocessing,
        config.licence,
        config.source,
        folder,
    )


def _from_file(path: Path) -> WeightFile:
    sha256 = _hash(path)
    metadata = read_metadata(path)
    if metadata.get("format") not in (FORMAT, FORMAT_2):
        raise UserError(f"{path} was not written by `zoo-train export`: it does not say its architecture")
    try:
        architecture = _architecture(metadata["architecture"])
        preprocessing = Preprocessing.from_json(json.loads(metadata["preprocessing"]))
        texts = metadata["method"], metadata["licence"], metadata.get("source", "")
        method, licence, source = map(line_of_text, texts)  # they are printed
        return WeightFile(path, path.stem, sha256, method, architecture, preprocessing, licence, source)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{path} has metadata that this version does not understand ({reason_of(error)}): export it again"
        ) from None


def _architecture(text: str) -> Architecture:
    """Parse a name of the registry, or JSON of ``save_encoder``'s dict; the file is not trusted."""
    # A plain name means an architecture of the table.
    if not text.startswith("{"):
        return ARCHITECTURES[text]
    # Otherwise the text holds the changes to one.
    values = json.loads(text)
    stem, padding, project_first = (
        values["stem"],
        values.get("padding", "symmetric"),
        values.get("project_first"),
    )
    # Refuse values that this version cannot build.
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"unknown stem {stem!r}")
    if padding not in ("symmetric", "same", "same-pool"):
        raise ValueError(f"unknown padding {padding!r}")
    known = ARCHITECTURES[values["name"]] if values["name"] in ARCHITECTURES else _timm_architecture(values)
    project_first = known.project_first if project_first is None else project_first
    if project_first is not False and (project_first is not True or known.timm_name not in PROJECTED):
        raise ValueError(f"project_first={project_first!r} of {values['name']}")
    found = replace(known, stem=stem, padding=padding, project_first=project_first)
    if not found.is_resnet and (stem, padding, project_first) != ("imagenet", "symmetric", False):
        raise ValueError(f"stem or padding of {values['name']}, which is no ResNet")
    return found


def _timm_architecture(values: Mapping[str, Any]) -> Architecture:
    """Parse a network that the registry lacks; its name is one of timm's, which is checked when it is built."""
    name, args = str(values["name"]), values["model_args"]
    if not isinstance(args, dict):
        raise ValueError("model_args is no mapping")
    require_bounded_args(name, args)
    return Architecture(line_of_text(name), int(values["num_features"]), int(values["parameters"]), args)  # type: ignore[arg-type]


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"no weights at {path} ({error.strerror})") from None
