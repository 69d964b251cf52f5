"""Find the weights behind a registry name, a path or a hub reference, and verify them.

A file is hashed before it is parsed. ``zoo.hub.networks`` builds what was found.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.hub import exported_encoder
from zoo.models import checkpoint_dir, registry
from zoo.models.config_reader import read_config
from zoo.models.model_config import CONFIG, HEADS, MODEL, ModelConfig
from zoo.models.other_files import refuse_others
from zoo.models.registry import ARCHITECTURES, Architecture
from zoo.models.state_dict import count_parameters
from zoo.system.atomic_files import sha256_file
from zoo.transforms.preprocess import Preprocessing

_SUFFIXES = (".safetensors", ".onnx", ".pt", ".pth", ".ckpt", ".bin")
_REPOSITORY = re.compile(r"(?:https?:/+[\w.:-]+/)?([\w.-]+/[\w.-]+)")  # what people copy from a hub

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = Path(__file__).parents[1] / "bundled"
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
            path = None if self.path is None else self.path.with_suffix(exported_encoder.HEADS_SUFFIX)
        return path if path and path.is_file() else None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the heads in ``heads_path``, of ``zoo.models.head_spec.PARTS``."""
        if self.heads_path is None:
            return ()
        return tuple(checkpoint_dir.read(self.folder).heads) if self.folder else tuple(self.exported_heads())

    @property
    def heads_sha256(self) -> str | None:
        """Hash of ``heads_path``; that of a folder is read from ``config.json``."""
        if self.folder is not None:
            return checkpoint_dir.read(self.folder).sha256.get(HEADS)
        return None if self.heads_path is None else sha256_file(self.heads_path)

    def exported_heads(self) -> dict[str, dict[str, Tensor]]:
        """Read the heads beside a file of ``zoo-train export``; see ``zoo.hub.exported_encoder.read_heads``."""
        if self.folder is not None or self.path is None or self.heads_path is None:
            return {}
        return exported_encoder.read_heads(self.heads_path, self.path, self.sha256)


def is_path(model: str | Path) -> bool:
    """True if ``model`` names a file or a folder of ``zoo convert``, by its form or because such a one exists here."""
    text = str(model)
    if is_hub_reference(model):
        return False
    if isinstance(model, Path) or "/" in text or text.endswith((".safetensors", ".onnx")) or os.path.isfile(text):
        return True
    return registry.split_name(text)[0] not in registry.MODELS and os.path.isfile(os.path.join(text, CONFIG))


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
        _counted(config.architecture, folder / MODEL),
        config.preprocessing,
        config.licence,
        config.source,
        folder,
    )


def _from_file(path: Path) -> WeightFile:
    sha256 = _hash(path)
    facts = exported_encoder.read_facts(path)
    return WeightFile(
        path,
        path.stem,
        sha256,
        facts.method,
        _counted(facts.architecture, path),
        facts.preprocessing,
        facts.licence,
        facts.source,
    )


def _counted(architecture: Architecture, path: Path) -> Architecture:
    """Return a ResNet with the number of parameters that its file holds: the stated one may be wrong.

    Another network of timm may use a layer twice, which its file holds twice: for those it is the stated number.
    """
    if not architecture.is_resnet:
        return architecture
    return replace(architecture, parameters=count_parameters(path))


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        repository = None if path.suffix in _SUFFIXES else _REPOSITORY.fullmatch(str(path))
        hint = f"; a repository of a model hub is hf-hub:{repository[1]}" if repository else ""
        raise UserError(f"no weights at {path} ({error.strerror}){hint}") from None
