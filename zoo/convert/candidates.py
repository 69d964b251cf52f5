"""Find the ResNets in a checkpoint of any training code: under which prefix, and in whose key names.

Every library wraps its network: ``state_dict.backbone.`` (Lightning, solo-learn), ``module.`` (DDP), ``_orig_mod.``
(torch.compile), ``_fsdp_wrapped_module.``, ``classy_state_dict.base_model.model.trunk._feature_blocks.`` (VISSL),
``nn.Sequential(*resnet.children())`` (lightly's examples). So the keys of all nested dicts are joined, and a ResNet is
where a stem and a first block are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.convert.common import starting_with, without_wrappers
from zoo.models.key_mapping import detectron2_to_torchvision, resnetv2_to_torchvision

_AVERAGE = re.compile(
    r"(?:^|[._])(?:ema|teacher|momentum|target|encoder_k|average|averaged|swa)(?:[._]|$)|_ema|_momentum"
)
_CAFFE = re.compile(r"(?<![A-Za-z])(?:caffe2?|bgr(?!2rgb)|detectron2? model zoo)(?![A-Za-z])", re.IGNORECASE)
_MAX_DEPTH = 100
_MAX_NETWORKS = 32  # of one file: each takes a pass over all keys

# Layout, key of the stem, key of the first block: a block has a conv1 too, so the stem alone is not enough.
_MARKS = (
    ("torchvision's names", "conv1.weight", "layer1.0.conv1.weight"),
    ("timm's resnetv2 names", "stem.conv.weight", "stages.0.blocks.0.conv1.weight"),
    ("detectron2's names", "stem.conv1.weight", "res2.0.conv1.weight"),
)
_OTHER_STEMS = ("conv1.0.weight", "stem.0.weight", "stem.conv1.weight")
_STAGE = re.compile(r"^(.*?)(\d{1,2})\.0\.conv1\.weight$")
SEQUENTIAL = "Sequential names"


@dataclass(frozen=True)
class Candidate:
    """A ResNet of a file.

    Attributes:
        prefix: text before its keys, where the keys of nested dicts are joined by dots.
        layout: whose key names it has.
        state: its tensors in torchvision's names; ``fc`` and what else lies under the prefix included.
        problem: why this zoo's networks differ from it although the tensors fit; empty where nothing is known.
    """

    prefix: str
    layout: str
    state: Mapping[str, Tensor]
    problem: str = ""

    @property
    def is_average(self) -> bool:
        """True if its prefix says that it is a moving average of another network."""
        return _AVERAGE.search(self.prefix) is not None

    def __str__(self) -> str:
        return repr(self.prefix) + (" (a moving average)" if self.is_average else "")


def joined(content: Mapping[object, object]) -> dict[str, Tensor]:
    """Return all tensors under nested dicts by their joined keys, without the wrappers of compile and FSDP."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()  # a file can mention one dict a thousand times, or in itself

    def walk(tree: Mapping[object, object], place: str, depth: int) -> None:
        seen.add(id(tree))
        for key, value in tree.items():
            if not isinstance(key, str):
                continue
            if isinstance(value, Tensor):
                found[without_wrappers(place + key)] = value
            elif isinstance(value, dict) and id(value) not in seen and depth < _MAX_DEPTH:
                walk(value, f"{place}{key}.", depth + 1)

    walk(content, "", 0)
    return found


def find(tensors: Mapping[str, Tensor]) -> list[Candidate]:
    """Return the ResNets among ``joined`` tensors; of equal ones under several names, the last in order of prefixes.

    lucidrains' BYOL, for example, holds one network as ``net.`` and as ``online_encoder.net.``.
    """
    different: list[Candidate] = []
    for candidate in sorted((*_named(tensors), *_in_sequences(tensors)), key=lambda c: (c.is_average, c.prefix)):
        twin = next((n for n, other in enumerate(different) if _equal(other.state, candidate.state)), None)
        if twin is None:
            different.append(candidate)
        elif not candidate.is_average:
            different[twin] = candidate
    return different


def of_caffe(file_name: str, author: object, state: Mapping[str, Tensor]) -> str:
    """Say by what a network is known as one of Caffe, which takes BGR images; empty where nothing says so.

    Detectron's and MSRA's have BN folded into an affine layer, so that its moving averages are 0 and 1
    (facebookresearch/detectron2, ``detectron2/checkpoint/catalog.py``). An untrained network has them too, but with its
    first scales and shifts.

    Args:
        author: ``__author__`` of detectron2's files.
        state: a network in torchvision's names.
    """
    if found := _CAFFE.search(file_name):
        return f"{found[0]!r} in its name"
    if isinstance(author, str) and (found := _CAFFE.search(author)):
        return f"its __author__ {author[:50]!r}"
    norms = [k.removesuffix("running_mean") for k in state if k.endswith("running_mean")]
    folded = all(
        not bool(state[f"{norm}running_mean"].any())
        and f"{norm}running_var" in state
        and bool(((state[f"{norm}running_var"].float() - 1).abs() < 1e-4).all())  # detectron2 subtracts BN's epsilon
        for norm in norms
    )
    scales = (state[f"{norm}weight"] for norm in norms if f"{norm}weight" in state)
    trained = any(not bool(((scale.float() == 0) | (scale.float() == 1)).all()) for scale in scales)
    return "its BN layers, whose moving averages are 0 and 1" if norms and folded and trained else ""


def other_network(tensors: Mapping[str, Tensor]) -> str:
    """Say what the tensors are where no ResNet is among them; empty where nothing is known."""
    ends = {key.rpartition("layer1.0.")[0] for key in tensors if "layer1.0." in key}
    if any(f"{start}{stem}" in tensors for start in ends for stem in _OTHER_STEMS):
        return "a ResNet with a stem of three convolutions (ResNet-C or -D), which is not supported"
    if any(key.endswith("patch_embed.proj.weight") for key in tensors):
        return "a vision transformer, which is not supported: only ResNets are"
    if any(key.endswith("res2_0_branch2a_w") for key in tensors):
        return (
            "a network in Caffe2's names, for BGR images: extra_scripts/convert_caffe2_to_torchvision_resnet.py of "
            "facebookresearch/vissl, with --bgr2rgb True, writes a file for --from torch"
        )
    if any(".conv_dw." in key or key.endswith("features.0.0.weight") for key in tensors):
        return "a network of another family: only ResNets are supported"
    return ""


def _named(tensors: Mapping[str, Tensor]) -> list[Candidate]:
    rename = {_MARKS[1][0]: resnetv2_to_torchvision, _MARKS[2][0]: detectron2_to_torchvision}
    found: list[Candidate] = []
    for layout, stem, block in _MARKS:
        for key in tensors:
            prefix = key.removesuffix(stem)
            if (
                len(found) < _MAX_NETWORKS
                and key.endswith(stem)
                and prefix[-1:] in ("", ".")
                and prefix + block in tensors
            ):
                state: Mapping[str, Tensor] = starting_with(dict(tensors), prefix)
                found.append(Candidate(prefix, layout, _usual(rename[layout](state) if layout in rename else state)))
    return found


def _in_sequences(tensors: Mapping[str, Tensor]) -> list[Candidate]:
    """Find networks whose parts have numbers: a convolution, its norm, and four stages in a row."""
    stages: dict[str, set[int]] = {}
    for key in tensors:
        if (match := _STAGE.match(key)) and match[1][-1:] in ("", "."):
            stages.setdefault(match[1], set()).add(int(match[2]))
    found: list[Candidate] = []
    for prefix, numbers in stages.items():
        first = min(numbers)
        stems = [n for n in range(first) if getattr(tensors.get(f"{prefix}{n}.weight"), "ndim", 0) == 4]
        if numbers != set(range(first, first + 4)) or len(stems) != 1 or len(found) == _MAX_NETWORKS:
            continue
        names = {f"{stems[0]}": "conv1", f"{stems[0] + 1}": "bn1"} | {str(first + n): f"layer{n + 1}" for n in range(4)}
        state = {}
        for key, value in starting_with(dict(tensors), prefix).items():
            number, _, rest = key.partition(".")
            state[f"{names.get(number, number)}.{rest}"] = value
        problem = _missing_layers(first - stems[0], tensors[f"{prefix}{stems[0]}.weight"].shape[-1])
        found.append(Candidate(prefix, SEQUENTIAL, _usual(state), problem))
    return found


def _missing_layers(distance: int, kernel: int) -> str:
    """Say what a sequence lacks between its stem and its first stage: layers without tensors still have a number."""
    if distance < 3:
        return (
            "its stem has no ReLU (nn.Sequential(*children) of lightly's own ResNet loses it, as that calls "
            "F.relu in forward), so no ResNet computes the same"
        )
    if distance == 3 and kernel > 3:
        return "it has no max-pool after its 7x7 stem, which is not supported"
    return ""


def _usual(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename what lightly's own ResNet calls otherwise."""
    named = {key.replace(".shortcut.", ".downsample.", 1): value for key, value in state.items()}
    if "fc.weight" not in named and "linear.weight" in named:
        named = {key.replace("linear.", "fc.", 1) if key.startswith("linear.") else key: v for key, v in named.items()}
    return named


def _equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    def body(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: v for k, v in state.items() if k.startswith(("conv1.", "bn1.", "layer"))}

    ours, theirs = body(left), body(right)
    return ours.keys() == theirs.keys() and all(
        value.shape == theirs[key].shape and torch.equal(value, theirs[key]) for key, value in ours.items()
    )
