"""Checkpoints that differ only in where their networks lie: one row of a table each, read by one function.

Keys are those of all nested dicts joined by dots (``zoo.convert.candidates.joined``). The table has DDP's ``module.``
where the codes write it; files that were saved again without it, or with another, are read too. Sources:
- facebookresearch/moco-v3 at c349e6e, ``moco/builder.py``; the projector is ``fc``.
- facebookresearch/dino at 7c446df, ``main_dino.py:278`` and ``utils.py:594``; the heads have GELU and weight norm,
  which heads of this zoo cannot say, and are left out. The published backbone is the teacher's.
- facebookresearch/barlowtwins at 8e8d284, ``main.py``; facebookresearch/vicreg at 4e12602, ``main_vicreg.py:153``.
- WXinlong/DenseCL at b64bbb6, ``openselfsup/models/densecl.py`` and ``tools/extract_backbone_weights.py``; the dense
  half of the neck is left out.
- zhirongw/lemniscate.pytorch at f7cfe29, ``main.py``.
- HobbitLong/PyContrast at 84f94ea, ``networks/build_backbone.py``; HobbitLong/CMC at 7b227be,
  ``models/resnet.py:240-332``. CMC's files do not say in plain values whether they are of Lab: the published ones are.
- facebookresearch/vissl at 09270ed, ``extra_scripts/convert_vissl_to_torchvision.py``, ``vissl/models/heads``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from zoo.convert.candidates import joined
from zoo.convert.common import (
    OfficialCheckpoint,
    body_of,
    not_official,
    one_of_two,
    recognise,
    sequential,
    starting_with,
    without_module,
)
from zoo.convert.readers.torch_checkpoint import read_torch
from zoo.convert.split_networks import recognise_split, two_linears
from zoo.errors import UserError
from zoo.models.registry import FAIR_224

ANYTHING = ("",)


@dataclass(frozen=True)
class Network:
    """One place where a network may lie.

    Attributes:
        prefix: text before ``conv1.weight``; of a network of split colours, of its first half.
        heads: text before the layers of each head, by part; the first that the file has is taken.
        second: prefix of the second half; empty for a usual network.
        colours: of a network of split colours: see ``zoo.models.registry.Architecture``.
        second_head: text before the layers of the second half's projector.
        lacks: how no other key begins in such a file, after the prefix: one that has it is of another code.
    """

    prefix: str
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    second: str = ""
    colours: str = ""
    second_head: str = ""
    lacks: tuple[str, ...] = ()

    def without_module(self) -> Network:
        """Return the same place among keys without ``module.``."""
        return Network(
            without_module(self.prefix),
            {part: tuple(map(without_module, prefixes)) for part, prefixes in self.heads.items()},
            without_module(self.second),
            self.colours,
            without_module(self.second_head),
            self.lacks,
        )


@dataclass(frozen=True)
class Layout:
    """One code's checkpoints.

    Attributes:
        method: of the converted model; the registry's own entries may say it better.
        title: for messages.
        online, target: places of the networks, tried in this order.
        names: of the two networks, for messages.
        evaluated: which of two its authors evaluate and publish.
    """

    method: str
    title: str
    online: tuple[Network, ...]
    target: tuple[Network, ...] = ()
    names: tuple[str, str] = ("trained network", "network that is its moving average")
    evaluated: str = "online"


def _with_projector(prefix: str, projector: str, lacks: tuple[str, ...] = ()) -> Network:
    return Network(prefix, {"projector": (projector,)}, lacks=lacks)


def _backbone(lacks: tuple[str, ...] = ANYTHING) -> tuple[Network, ...]:
    """A file of a network without its heads, as it is or in a usual dict."""
    return tuple(Network(prefix, lacks=lacks) for prefix in ("", "state_dict.", "model."))


def _moco_v3(encoder: str) -> Network:
    prefix = f"state_dict.module.{encoder}."
    return Network(prefix, {"projector": (f"{prefix}fc.",), "predictor": ("state_dict.module.predictor.",)})


def _twins(method: str, title: str) -> Layout:
    full = _with_projector("model.module.backbone.", "model.module.projector.")
    # barlowtwins evaluate.py:84 and vicreg hubconf.py:21 load them without a key too many
    return Layout(method, title, (full, *_backbone()))


def _densecl(encoder: str) -> Network:
    return _with_projector(f"state_dict.{encoder}.0.", f"state_dict.{encoder}.1.mlp.")


def _pycontrast(network: str) -> tuple[Network, Network]:
    colours = Network(
        f"{network}encoder1.", {"projector": (f"{network}head1.",)}, f"{network}encoder2.", "ydbdr", f"{network}head2."
    )
    return _with_projector(f"{network}encoder.", f"{network}head."), colours


def _cmc(network: str) -> tuple[Network, Network]:
    first, second = f"{network}l_to_ab.", f"{network}ab_to_l."
    colours = Network(first, {"projector": (f"{first}fc.",)}, second, "lab", f"{second}fc.")
    return _with_projector(network, f"{network}fc."), colours


_VISSL = "classy_state_dict.base_model.model."
_VISSL_HEADS = {  # PIRL's image branch, SwAV's, and heads in a row, see ``_chain``
    "projector": (f"{_VISSL}heads.1.0.clf.", f"{_VISSL}heads.0.projection_head.", f"{_VISSL}heads."),
    "prototypes": (f"{_VISSL}heads.0.prototypes0.",),
}

LAYOUTS: Mapping[str, Layout] = {
    "mocov3": Layout("mocov3", "MoCo v3", (_moco_v3("base_encoder"),), (_moco_v3("momentum_encoder"),)),
    "dino": Layout(
        "dino",
        "DINO",
        # hubconf.py:94 loads the backbone without being strict
        (Network("student.module.backbone."), *_backbone(lacks=("fc.",))),
        (Network("teacher.backbone."),),
        ("student", "teacher, which its authors evaluate and publish"),
        evaluated="target",  # eval_linear.py:264 and eval_knn.py: --checkpoint_key teacher
    ),
    "barlowtwins": _twins("barlowtwins", "Barlow Twins"),
    "vicreg": _twins("vicreg", "VICReg"),
    "densecl": Layout("densecl", "DenseCL", (_densecl("encoder_q"), *_backbone()), (_densecl("encoder_k"),)),
    "lemniscate": Layout(
        "instdisc", "InstDisc", (_with_projector("state_dict.module.", "state_dict.module.fc.", lacks=ANYTHING),)
    ),
    "pycontrast": Layout(
        "unknown",
        "PyContrast",
        _pycontrast("model.module."),
        _pycontrast("model_ema."),
    ),
    "cmc": Layout("unknown", "CMC", _cmc("model.encoder.module."), _cmc("model_ema.encoder.module.")),
    "vissl": Layout(
        "unknown",
        "VISSL",
        (
            Network(f"{_VISSL}trunk._feature_blocks.", _VISSL_HEADS),
            Network(f"{_VISSL}trunk.base_model._feature_blocks.", _VISSL_HEADS),
            Network("model_state_dict._feature_blocks."),
            Network("model_state_dict."),
            Network("_feature_blocks."),
            *_backbone(lacks=("fc.",)),
        ),
    ),
}


_ANYBODY_S = ("", "state_dict.", "state_dict.module.", "model.", "model_state_dict.", "_feature_blocks.")


def kinds_of_place(prefix: str) -> list[str]:
    """Return the kinds whose files have a network under a prefix; none for a prefix that any code's may have."""
    if prefix in _ANYBODY_S:
        return []
    return [k for k, layout in LAYOUTS.items() if prefix in {p.prefix for p in (*layout.online, *layout.target)}]


def read_layout_of(kind: str, path: Path, which: str) -> OfficialCheckpoint:
    """Read the network of a file of the kind ``kind``, a key of ``LAYOUTS``.

    Args:
        which: ``online``, or ``target``: the momentum network, DINO's teacher.

    Raises:
        UserError: the file cannot be read, or has no such network.
    """
    layout, file = LAYOUTS[kind], read_torch(path)
    places, others = (layout.online, layout.target) if which == "online" else (layout.target, layout.online)
    if not places:
        raise UserError(f"{kind} has no {which} network: leave --which out")
    taken, other = layout.names if which == "online" else layout.names[::-1]
    stored = joined(file.content)
    names = {without_module(key): key for key in stored}  # as the file has them
    tensors = {key: stored[name] for key, name in names.items()}
    has_other = _first(others, tensors) is not None
    try:
        if len(tensors) != len(stored):
            raise ValueError("the same keys with and without module. in them")
        if (found := _first(places, tensors)) is None:
            asked = " (the network asked for by --which target)" * (which == "target")
            raise KeyError(f"{places[0].prefix}conv1.weight{asked or _alone(other) * has_other}")
        official = (_split if found.second else _single)(layout, found, tensors, file.dropped)
        _require_no_more(found, official.left_out, names)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise not_official(path, layout.title, error, file.dropped) from None
    official = replace(official, left_out=tuple(names[key] for key in official.left_out))
    if not has_other:
        return official
    return replace(official, found=one_of_two(taken, which, other), evaluated=which == layout.evaluated)


def _first(places: tuple[Network, ...], tensors: Mapping[str, Tensor]) -> Network | None:
    """Return the first of the places at which the file has a network."""
    plain = (place.without_module() for place in places)
    return next((place for place in plain if f"{place.prefix}conv1.weight" in tensors), None)


def _alone(other: str) -> str:
    return f"; it holds the {other} alone: --which target"


def _require_no_more(place: Network, left_out: tuple[str, ...], names: Mapping[str, str]) -> None:
    """Raise ValueError where a file has tensors that those of this code lack, such as a classifier of its own."""
    more = [key for key in left_out if place.lacks and key.removeprefix(place.prefix).startswith(place.lacks)]
    if more:
        raise ValueError(f"which writes no {names[more[0]]}")


def _single(
    layout: Layout, place: Network, tensors: Mapping[str, Tensor], dropped: Mapping[str, str]
) -> OfficialCheckpoint:
    body = _body(tensors, place.prefix)
    architecture, encoder = recognise(body)
    used = {place.prefix + key for key in body}
    heads: dict[str, dict[str, Tensor]] = {}
    for part, prefixes in place.heads.items():
        prefix = next((p for p in prefixes if any(key.startswith(p) for key in tensors)), None)
        if prefix is None:
            continue
        head = sequential(starting_with(tensors, prefix))
        head = _chain(head) if prefix == f"{_VISSL}heads." else head
        # Jigsaw's head takes all patches at once, for example.
        if head and (part != "projector" or _inputs(head) == architecture.num_features):
            heads[part] = head
            used |= {key for key in tensors if key.startswith(prefix)}
    method = "swav" if "prototypes" in heads else layout.method
    left_out = _left_out(tensors, used, place.prefix)
    return OfficialCheckpoint(method, architecture, encoder, heads, FAIR_224, left_out, dropped)


def _chain(heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join VISSL's MLPs, ``N.clf.M``, that follow each other; empty where other heads stand among them.

    Each but the last ends in a ReLU: ``configs/config/pretrain`` has ``use_relu`` and no ``skip_last_layer_relu_bn``
    in ``simclr/simclr_8node_resnet.yaml:52`` and ``barlow_twins/barlow_twins_4node_resnet.yaml:60``.
    """
    places = {key: key.split(".") for key in heads}
    if any(len(place) != 4 or place[1] != "clf" or not (place[0] + place[2]).isdigit() for place in places.values()):
        return {}
    number = 0
    found: dict[str, Tensor] = {}
    for head in sorted({int(place[0]) for place in places.values()}):
        own = {key: place for key, place in places.items() if int(place[0]) == head}
        found |= {f"{number + int(place[2])}.{place[3]}": heads[key] for key, place in own.items()}
        number += 2 + max(int(place[2]) for place in own.values())  # and the ReLU
    return found


def _inputs(head: Mapping[str, Tensor]) -> int:
    return int(head["0.weight"].shape[1]) if "0.weight" in head and head["0.weight"].ndim == 2 else 0


def _split(
    layout: Layout, place: Network, tensors: Mapping[str, Tensor], dropped: Mapping[str, str]
) -> OfficialCheckpoint:
    halves = [_body(tensors, prefix) for prefix in (place.prefix, place.second)]
    architecture, encoder = recognise_split(halves[0], halves[1], place.colours)
    used = {prefix + key for prefix, half in zip((place.prefix, place.second), halves, strict=True) for key in half}
    # Two Linears of one layer each are one of both halves; deeper heads would mix them.
    linears = [sequential(starting_with(tensors, p)) for p in (*place.heads["projector"], place.second_head)]
    heads = {}
    if all(set(linear) == {"0.weight", "0.bias"} for linear in linears):
        heads = {"projector": two_linears(*linears)}
        used |= {key for key in tensors if key.startswith((*place.heads["projector"], place.second_head))}
    left_out = _left_out(tensors, used, place.prefix)
    return OfficialCheckpoint("cmc", architecture, encoder, heads, FAIR_224, left_out, dropped)


def _body(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return body_of(starting_with(tensors, prefix))


def _left_out(tensors: Mapping[str, Tensor], used: set[str], prefix: str) -> tuple[str, ...]:
    """Return the other tensors beside the network; not the optimiser's and the bank's."""
    top = prefix.partition(".")[0]
    beside = (key for key in tensors if key not in used and (not top or key.startswith(f"{top}.")))
    return tuple(key for key in beside if not key.endswith("num_batches_tracked"))
