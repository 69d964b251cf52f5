"""Render a card as Markdown, and write the cards of the registry (``zoo card NAME``)."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.errors import UserError
from zoo.models import registry
from zoo.models.licences import commercial_use, is_non_commercial, where_stated
from zoo.models.registry import Architecture
from zoo.publish.card import scores, training, use, wording
from zoo.publish.card.facts import Facts
from zoo.publish.card.gather import card_path, registry_facts
from zoo.publish.card.markdown import rows, wrap
from zoo.publish.card.wording import DATA_SETS, METHODS, hub_licence
from zoo.system.atomic_files import atomic_write_text
from zoo.system.shipped import is_packaged
from zoo.transforms.preprocess import Preprocessing

_TAGS = ["self-supervised", "feature-extraction", "image-embedding", "resnet"]


def write(name: str, out: Path | None = None) -> Path:
    """Write the card of a model of the registry, and return its path.

    Args:
        out: the file; by default the one of ``model_cards``, which only a checkout has.

    Raises:
        UserError: there is no such model, it has no weights, a JSON file behind its card is missing, or the package is
            installed and ``out`` is missing: it does not change its own files.
    """
    path = out or card_path(name)
    card = render(registry_facts(name))
    if out is None and is_packaged(path):
        raise UserError(f"give --out FILE: {path} belongs to the installed package")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, card)
    return path


def render(facts: Facts) -> str:
    """Return a card as Markdown."""
    sections = (
        _front_matter(facts),
        _head(facts),
        f"## Intended use\n\n{wording.INTENDED}",
        use.section(facts),
        training.section(facts),
        scores.section(facts),
        f"## Limits and bias\n\n{_limits(facts)}",
        f"## Compute and carbon\n\n{training.compute(facts)}",
        f"## Licence\n\n{_licence(facts)}",
        _cite(facts),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(facts: Facts) -> str:
    from huggingface_hub import ModelCardData

    # Collect what the hub's search and leaderboards read.
    results = scores.eval_results(facts)
    licence = hub_licence(facts.licence)
    trained_on = DATA_SETS[facts.data].hub if facts.data else ""
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        datasets=[trained_on] if trained_on else None,
        tags=_tags(facts),
        model_name=(facts.repository or facts.name).rpartition("/")[2] if results else None,
        eval_results=results or None,
        license=licence["license"],
        license_name=licence.get("license_name"),
    )
    return f"---\n{data.to_yaml()}\n---"


def _tags(facts: Facts) -> list[str]:
    untrue = {"self-supervised"} if facts.method == "supervised" else set()
    untrue |= set() if facts.architecture.is_resnet else {"resnet"}
    return [*(tag for tag in _TAGS if tag not in untrue), facts.method]


def _head(facts: Facts) -> str:
    # Word the title and the facts that depend on the method.
    method, transform, architecture = METHODS.get(facts.method), facts.preprocessing, facts.architecture
    title = method.title if method else facts.method
    learns = f" {method.learns}." if method else ""
    registered = (facts.bundled or facts.official) and not facts.repository
    hint = f"\n<!-- written by `zoo card {facts.name}`; do not edit -->\n" if registered else ""
    file = "model.safetensors" if facts.repository else facts.location.removeprefix("bundled:")
    stored = ", float16 convolutions, float32 BN" if facts.half and not facts.repository else ""
    # The rows that every model has.
    pairs = [
        ("embedding", f"{architecture.num_features} numbers, {architecture.parameters / 1e6:.3f} M parameters"),
        ("network", _network(architecture)),
        ("pixels", _pixels(transform)),
        ("licence", _short_licence(facts.licence)),
        ("source", facts.source or "the owner of this repository"),
        ("file", f"`{file}`{stored}, {_hash(facts)}"),
    ]
    # The rows that only some have.
    if facts.other_link and not facts.repository:
        link, _, remark = facts.other_link.partition(" ")
        pairs.append(("the same file", f"`{link}` {remark}".strip()))
    if facts.by_hand and not facts.repository:
        pairs.append(("download", f"by hand, then `zoo fetch {facts.name} --file FILE`: {facts.by_hand}"))
    if facts.repository and facts.official:
        pairs.append(("converted from", f"`{facts.location}`"))
    if facts.heads:
        pairs.append(("heads", f"`{facts.heads_file}`: {', '.join(facts.heads)}"))
    what = f"A {_depth(architecture)} trained with {title}.{learns}."
    return f"# {facts.repository or facts.name}\n{hint}\n{wrap(what.replace('..', '.'))}\n\n{rows(pairs)}"


def _hash(facts: Facts) -> str:
    """Return the file's hash, what its authors publish of it, or that they publish nothing."""
    prefix = facts.hash_prefix
    if facts.sha256:
        return f"sha256 `{facts.sha256}`"
    if prefix:
        return f"{prefix.algorithm} begins with `{prefix.digits}` ({prefix.where}), verified at every download"
    if facts.official:
        return "its authors publish no hash: the first use records its sha256 and refuses another file later"
    return "sha256 not verified yet"


def _limits(facts: Facts) -> str:
    size = facts.preprocessing
    # The training data decides the limits.
    if facts.official and facts.data == "imagenet":
        text = wording.IMAGENET_LIMITS
    elif facts.data == "tiny-imagenet":
        text = wording.TINY_LIMITS
    else:
        text = wording.UNKNOWN_LIMITS
    if facts.bundled and facts.training:
        small = (
            f"It is small and was trained for {facts.training['minutes']:.0f} minutes on a CPU: take it for trying things "
            "out, for tests and for look-alike search among simple photographs, not as a replacement for ImageNet weights."
        )
        text = f"{wrap(small)}\n\n{text}"
    crop = wrap(
        f"Pixels outside the {size.input_size} pixel centre crop are not seen. Another preprocessing than the one above "
        "gives other, usually worse, features."
    )
    return f"{text}\n\n{crop}"


def _licence(facts: Facts) -> str:
    if is_non_commercial(facts.licence):
        text = (
            f"**{facts.licence}: not for commercial use.** The weights may be used and shared for non-commercial purposes "
            f"with attribution to their authors ({facts.source})."
        )
    elif facts.licence in ("", "unknown"):
        text = "Unknown: ask the owner of the weights before you use them."
    else:  # a repository's card keeps the bytes that it had when it was published first
        text = f"{facts.licence}." if facts.repository else f"{facts.licence}: {commercial_use(facts.licence)}."
    note = f" {facts.licence_note}" if facts.licence_note else ""
    stated = where_stated(facts.source, in_repository=bool(facts.repository))
    if stated and facts.licence != "unknown":
        note = f" Stated in {facts.source.partition(',')[0]}: {stated}.{note}"
    return wrap(f"{text}{note} The code of siamese-zoo is Apache-2.0.")


def _cite(facts: Facts) -> str:
    method = METHODS.get(facts.method)
    return f"## Cite\n\n```bibtex\n{method.bibtex}\n```" if method and method.bibtex else ""


def _network(architecture: Architecture) -> str:
    args = ", ".join(f"{k}={v}" for k, v in architecture.model_args.items())
    padding = {"symmetric": "", "same": "; TensorFlow's SAME padding", "same-pool": "; SAME padding in the pool"}
    stem = "; 3x3 stem without a pool" if architecture.stem == "cifar" else ""
    stem += "; a projection in the first block" if architecture.project_first else ""
    twice = f"; two of them, for two parts of the colours ({architecture.colours})" if architecture.colours else ""
    return f"timm `{architecture.timm_name}`{f' ({args})' if args else ''}{padding[architecture.padding]}{stem}{twice}"


def _depth(architecture: Architecture) -> str:
    if not architecture.is_resnet:
        return f"timm `{architecture.timm_name}`"
    width = architecture.model_args.get("width_factor", 1)
    layers = architecture.model_args.get("layers")
    basic = ("resnet18", "resnet34", "resnetv2_18")
    convolutions = 2 if architecture.timm_name in basic else 3  # in a block
    named = re.search(r"resnet(?:v2_)?(\d+)", architecture.timm_name)
    assert named is not None
    depth = 2 + convolutions * sum(layers) if layers else int(named[1])
    twice = f", twice, for two parts of the colours ({architecture.colours})" if architecture.colours else ""
    groups, inner = architecture.model_args.get("cardinality", 1), architecture.model_args.get("base_width", 64)
    if groups != 1:
        return f"ResNeXt-{depth} ({groups}x{inner}d)"
    before = "wide " if architecture.timm_name.startswith("wide") else ""
    before = "pre-activation " if architecture.timm_name == "resnetv2_18" else before
    return f"{before}ResNet-{depth}" + (f" of {width:g} times the width" if width != 1 else "") + twice


def _pixels(transform: Preprocessing) -> str:
    text = f"{transform.mode}, {transform.summary}" if transform.channels == 3 else transform.summary
    if (transform.mean, transform.std) == (registry.IMAGENET_224.mean, registry.IMAGENET_224.std):
        return f"{text}, ImageNet mean and std"
    return f"{text}, mean {', '.join(map(str, transform.mean))}, std {', '.join(map(str, transform.std))}"


def _short_licence(licence: str) -> str:
    return f"{licence}, **non-commercial**" if is_non_commercial(licence) else licence
