"""Model cards, generated from the registry and from the JSON files that training and evaluation wrote.

One text for a model of the registry (``zoo card NAME``, in ``model_cards/``) and for a repository of a model hub
(``zoo publish``): the same facts, other commands to load it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo import card_text, registry
from zoo.card_text import DATA_SETS, METHODS, hub_licence
from zoo.crop_first import CropFirst
from zoo.errors import UserError
from zoo.files import atomic_write_text
from zoo.licences import is_non_commercial
from zoo.preprocess import Preprocessing
from zoo.registry import ARCHITECTURES, MODELS, Architecture, Score

CARDS = Path(__file__).parents[1] / "model_cards"
PROTOCOLS = {"knn": "kNN", "linear": "linear"}
SAME = 1e-5  # relative, max|difference| / max|reference|: what a loader may differ on the same normalised pixels
SAME_PHOTOGRAPH = 1e-4  # and through timm's own transform, which is Pillow's like ours
_TAGS = ["self-supervised", "feature-extraction", "image-embedding", "resnet"]


@dataclass(frozen=True)
class Int8:
    """What became of the int8 ONNX file.

    Attributes:
        allowed: the least cosine with torch's embedding of a photograph that it was not calibrated on.
        cosine: the least measured, ``None`` where there is no file.
        photographs: how many it was measured on.
        refused: why there is none.
    """

    allowed: float
    cosine: float | None
    photographs: int = 0
    refused: str = ""


@dataclass(frozen=True)
class Agreement:
    """How far the loaders of a published folder are from torch, largest relative differences; measured, not promised.

    Attributes:
        photographs: how many.
        timm: on the same normalised pixels.
        timm_photograph: from the photograph, through timm's own transform (transformers uses the same).
        float_resize: from the photograph, resized in floating point (torch, antialiased) instead of Pillow's 8 bits; of
            weights that are cropped first, with the official code's fractions of a level.
        onnx: from the same uint8 pixels.
        int8: ``None`` where none was asked for.
    """

    photographs: int
    timm: float
    timm_photograph: float
    float_resize: float
    onnx: float = 0.0
    int8: Int8 | None = None


@dataclass(frozen=True)
class Facts:
    """All that a card says of one set of weights.

    Attributes:
        name: of the registry with its tag, or the user's own.
        location: the file that ships, or a URL; "" for weights of the user's own.
        training: the JSON of the training run, ``None`` where there is none.
        results: JSON of ``zoo evaluate``, for these weights and for random ones.
        published: scores of these weights, measured by others.
        selection: how settings were chosen and on which images.
        recipe: of ``zoo-train``, with the constants of the method's authors.
        like_these: scores of others for the same architecture and method, whatever weights.
        others: other weights of the same name.
        repository: ``ORG/NAME`` on a model hub, ``None`` for a card of the registry.
        hub_name: the entry of ``hubconf.py`` with this architecture, ``None`` where there is none.
        heads: parts in ``heads.safetensors``.
        agreement: measured when the repository was made.
    """

    name: str
    method: str
    architecture: Architecture
    preprocessing: Preprocessing
    licence: str
    source: str
    sha256: str | None
    location: str = ""
    training: Mapping[str, Any] | None = None
    results: Sequence[Mapping[str, Any]] = ()
    published: Sequence[Score] = ()
    selection: str = ""
    recipe: str = ""
    like_these: Sequence[Score] = ()
    others: Sequence[str] = ()
    repository: str | None = None
    hub_name: str | None = None
    heads: Sequence[str] = field(default_factory=tuple)
    agreement: Agreement | None = None

    @property
    def bundled(self) -> bool:
        """Whether the weights ship with the package."""
        return self.location.startswith("bundled:")

    @property
    def official(self) -> bool:
        """Whether a method's authors made the weights."""
        return "://" in self.location


def results_folder(name: str, tag: str) -> Path:
    """Where the JSON files behind a card stand."""
    return CARDS / "results" / f"{name}.{tag}"


def card_path(name: str) -> Path:
    """Where ``write`` puts the card of ``NAME`` or ``NAME.tag``: the default tag's has the bare name."""
    base, tag = _split(name)
    return CARDS / (f"{base}.md" if tag == MODELS[base].default_tag else f"{base}.{tag}.md")


def write(name: str) -> Path:
    """Writes the card of a model of the registry; returns its path.

    Raises:
        UserError: no such model, it has no weights, or a JSON file behind its card is missing.
    """
    path, text = card_path(name), render(name)
    atomic_write_text(path, text)
    return path


def render(name: str) -> str:
    """The card of a model of the registry as Markdown."""
    return render_facts(registry_facts(name))


def registry_facts(name: str) -> Facts:
    """What the registry and the JSON files in ``model_cards/results`` know of ``NAME`` or ``NAME.tag``."""
    base, tag = _split(name)
    spec, weights = MODELS[base], MODELS[base].weights[tag]
    training = results_folder(base, tag) / "training.json"
    return Facts(
        f"{base}.{tag}",
        spec.method,
        replace(ARCHITECTURES[spec.architecture], padding=weights.padding),
        weights.preprocessing,
        weights.licence,
        weights.source,
        weights.sha256,
        weights.location,
        _read(training) if weights.bundled else None,
        load_results(base, tag),
        weights.scores,
        weights.selection,
        spec.recipe,
        like_these=spec.scores,
        others=[f"{base}.{other}" for other in spec.weights if other != tag],
        hub_name=base,
    )


def render_facts(facts: Facts) -> str:
    """A card as Markdown."""
    sections = (
        _front_matter(facts),
        _head(facts),
        f"## Intended use\n\n{card_text.INTENDED}",
        _loading(facts),
        _training(facts),
        _evaluation(facts),
        f"## Limits and bias\n\n{_limits(facts)}",
        f"## Compute and carbon\n\n{_compute(facts)}",
        f"## Licence\n\n{_licence(facts)}",
        _cite(facts),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def evaluation_yaml(facts: Facts) -> dict[str, str]:
    """Files of ``.eval_results/`` by name, for the data sets that the hub has; the model hub's leaderboards read them."""
    import yaml

    files: dict[str, list[dict[str, Any]]] = {}
    for result in _trained(facts.results):
        data = DATA_SETS.get(result["data"]["name"])
        if data is not None and data.hub:
            entry = {"dataset": {"id": data.hub, "task_id": f"{result['protocol']}_top1"}, "value": result["score"]}
            notes = f"{result['protocol']} on frozen features, top-1 in percent; siamese-zoo"
            files.setdefault(f"{result['data']['name']}.yaml", []).append(entry | {"notes": notes})
    return {name: yaml.safe_dump(entries, sort_keys=False) for name, entries in files.items()}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row per data set, trained against random by protocol."""
    rows = ["| data | " + " | ".join(f"{p} trained | {p} random | gain" for p in PROTOCOLS.values()) + " |"]
    rows.append("|---|" + "---:|" * 3 * len(PROTOCOLS))
    for data in _data_sets(results):
        cells = [DATA_SETS[data].title]
        for protocol in PROTOCOLS:
            trained, random = (_find(results, protocol, data, is_random) for is_random in (False, True))
            gain = trained["score"] - random["score"]
            cells += [_score(trained), _score(random), f"**{gain:+.1f}**"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def load_results(name: str, tag: str) -> list[dict[str, Any]]:
    """All evaluation JSON files behind a card."""
    return read_results(results_folder(name, tag))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All JSON files of ``zoo evaluate`` in a folder."""
    return [_read(p) for p in sorted(folder.glob("*.json")) if p.name != "training.json"]


# sections


def _front_matter(facts: Facts) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            task_name="classification on frozen features",
            dataset_type=DATA_SETS[result["data"]["name"]].hub or result["data"]["name"],
            dataset_name=DATA_SETS[result["data"]["name"]].title,
            metric_type="accuracy",
            metric_name=f"{PROTOCOLS.get(result['protocol'], result['protocol'])} top-1, percent",
            metric_value=result["score"],
        )
        for result in _trained(facts.results)
        if result["data"]["name"] in DATA_SETS
    ]
    licence = hub_licence(facts.licence)
    trained_on = [] if _data_of(facts) is None else [DATA_SETS[str(_data_of(facts))].hub]
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        datasets=[d for d in trained_on if d] or None,
        tags=[*_TAGS, facts.method],
        model_name=(facts.repository or facts.name).rpartition("/")[2] if results else None,
        eval_results=results or None,
        license=licence["license"],
        license_name=licence.get("license_name"),
    )
    return f"---\n{data.to_yaml()}\n---"


def _head(facts: Facts) -> str:
    method, transform, architecture = METHODS.get(facts.method), facts.preprocessing, facts.architecture
    title = method.title if method else facts.method
    learns = f" {method.learns}." if method else ""
    hint = "" if facts.repository else f"\n<!-- written by `zoo card {facts.name}`; do not edit -->\n"
    file = "model.safetensors" if facts.repository else facts.location.removeprefix("bundled:")
    stored = ", float16 convolutions, float32 BN" if facts.bundled and not facts.repository else ""
    rows = [
        ("embedding", f"{architecture.num_features} numbers, {architecture.parameters / 1e6:.3f} M parameters"),
        ("network", _network(architecture)),
        ("pixels", _pixels(transform)),
        ("licence", _short_licence(facts.licence)),
        ("source", facts.source or "the owner of this repository"),
        ("file", f"`{file}`{stored}, sha256 " + (f"`{facts.sha256}`" if facts.sha256 else "not verified yet")),
    ]
    if facts.repository and facts.official:
        rows.append(("converted from", f"`{facts.location}`"))
    if facts.heads:
        rows.append(("heads", f"`heads.safetensors`: {', '.join(facts.heads)}"))
    what = f"A {_depth(architecture)} trained with {title}.{learns}."
    return f"# {facts.repository or facts.name}\n{hint}\n{_wrap(what.replace('..', '.'))}\n\n{_rows(rows)}"


def _loading(facts: Facts) -> str:
    reference = f"hf-hub:{facts.repository}" if facts.repository else facts.name
    default = facts.name.partition(".")[0] if facts.bundled and not facts.repository else reference
    lines = [
        "## Use",
        "",
        "With this project, from photographs to a table of embeddings or to an array:",
        "",
        f"    zoo extract --model {default} --images DIR --out OUT",
        "",
        "    import zoo",
        f'    zoo.load("{default}")(["photo.jpg"])                # float32 [1, {facts.architecture.num_features}]',
    ]
    if facts.repository:
        lines += _other_loaders(facts)
    else:
        name = facts.hub_name
        lines += [
            "",
            "The bare module from torch.hub (normalised [N, 3, H, W] to [N, D]), and an ONNX file for any program:",
            "",
            f'    torch.hub.load("PATH/TO/siamese-zoo", "{name}", source="local", weights="{facts.name.partition(".")[2]}")',
            f"    zoo export --model {default} --out model.onnx",
        ]
    return "\n".join(lines)


def _other_loaders(facts: Facts) -> list[str]:
    repository, size = facts.repository, facts.preprocessing.input_size
    lines = [
        "",
        "Add `@REVISION` (a branch, a tag, a commit) to pin it. The other loaders take upright RGB images: apply",
        "`PIL.ImageOps.exif_transpose` to photographs of cameras first, as the zoo does by itself.",
        "",
    ]
    if own := needs_import(facts.architecture):
        lines += [
            "This network pads as TensorFlow does, which timm's names cannot say: `import zoo.timm_models` (from",
            "`siamese-zoo`) teaches it to timm and transformers; without it they stop with an unknown model rather than",
            "build a wrong one.",
            "",
        ]
    if first := facts.preprocessing.crop_first:
        lines += [_wrap(_other_pixels(first, facts.agreement)), ""]
    extra = ["    import zoo.timm_models"] if own else []
    lines += [
        "timm:",
        "",
        "    import timm, torch",
        *extra,
        f'    model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()',
        "    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "    embedding = model(transform(image)[None])",
        "",
        "transformers:",
        "",
        "    from transformers import AutoImageProcessor, AutoModel, pipeline",
        *extra,
        f'    processor = AutoImageProcessor.from_pretrained("{repository}")',
        f'    model = AutoModel.from_pretrained("{repository}").eval()',
        "    embedding = model(**processor(image)).pooler_output",
        f'    embedding = pipeline("image-feature-extraction", model="{repository}")(image, pool=True)',
        "",
    ]
    if facts.hub_name:
        lines += [
            "torch.hub, from a clone of siamese-zoo:",
            "",
            f'    torch.hub.load("PATH/TO/siamese-zoo", "{facts.hub_name}", source="local", weights="hf-hub:{repository}")',
            "",
        ]
    lines += [
        f"ONNX Runtime, without torch; normalisation is in the graph, pixels are uint8 [N, {size}, {size}, 3]:",
        "",
        "    import onnxruntime",
        "    from huggingface_hub import hf_hub_download",
        f'    session = onnxruntime.InferenceSession(hf_hub_download("{repository}", "model.onnx"))',
        '    embedding, = session.run(["embedding"], {"pixels": pixels})',
    ]
    if facts.agreement:
        a = facts.agreement
        first = facts.preprocessing.crop_first
        eight = "rounded to 8 bits" if first else "Pillow's 8 bits"
        resized = " resized by Pillow" if first else ""
        measured = (
            f"Measured when this was published, on {a.photographs} photographs, largest difference over largest value, "
            f"against zoo: timm {a.timm:.0e} on the same normalised pixels, {a.timm_photograph:.0e} from the photograph "
            f"through timm's own transform, which transformers uses too; ONNX Runtime {a.onnx:.0e} on the same pixels; a "
            f"photograph resized in floating point instead of {eight} {a.float_resize:.0e}. Nothing is published "
            f"with more than {SAME:.0e} on the same pixels or {SAME_PHOTOGRAPH:.0e} from the photograph{resized}."
        )
        lines += ["", _wrap(measured), *_int8(a.int8)]
    return lines


def _other_pixels(first: CropFirst, agreement: Agreement | None) -> str:
    """Of weights that are cropped first: what timm and transformers make of them."""
    far = ""
    if agreement:
        far = (
            f", by {agreement.timm_photograph:.1%} of the largest value on the {agreement.photographs} small photographs of "
            "the check below and by more on larger ones, which Pillow smooths"
        )
    return (
        f"These weights were evaluated on pixels that {first.function} made ({first.source}): crop first, no antialias. "
        "timm and transformers have no words for it: `config.json` tells them the closest, Pillow's antialiased bicubic "
        f"before the crop, and their embedding of a photograph differs from the zoo's{far}. For the published scores take "
        "the zoo or an ONNX file that takes photographs of any size (`zoo export --pixels any`)."
    )


def _int8(int8: Int8 | None) -> list[str]:
    if int8 is None:
        return []
    gate = f"at least {int8.allowed:g} with torch's on photographs that it was not calibrated on"
    if int8.cosine is None:
        return ["", _wrap(f"There is no int8 file: its embeddings did not reach a cosine of {gate} ({int8.refused}).")]
    text = f"`model_int8.onnx` is the same in int8, for CPUs. Its gate is a cosine of {gate}"
    return ["", _wrap(f"{text}; measured on {int8.photographs}: {int8.cosine:.4f} or more.")]


def _training(facts: Facts) -> str:
    if facts.training is None:
        if not facts.official:
            return "## Training\n\nHow it was trained is not recorded here."
        what = (
            f"Trained by the method's authors on the 1,281,167 training images of ImageNet-1k (ILSVRC 2012), without their "
            f"labels: {facts.source}."
        )
        again = (
            f" The recipe with their constants, to train it again: `zoo-train run {facts.recipe}`."
            if facts.recipe
            else ""
        )
        text = f"## Training\n\n{_wrap(what + again)}"
        if facts.others:
            text += "\n\n" + _wrap(f"Other weights of this network: {', '.join(f'`{o}`' for o in facts.others)}.")
        return text
    training = facts.training
    recipe = training["recipe"]
    optim, views, data = recipe["optim"], recipe["views"], training["data"]
    rows = [("data", _training_data(facts))]
    rows.append(
        (
            "recipe",
            f"`zoo-train run {recipe['name']}`: {views['size']} pixel views, {optim['name'].upper()}, base lr "
            f"{optim['lr']:g} per 256, batch {optim['batch_size']}, weight decay {optim['weight_decay']:g}, "
            + (f"tau {optim['tau']:g} to 1, " if facts.method == "byol" else "")
            + f"seed {recipe['seed']}",
        )
    )
    steps = [f"{training['steps']:,} steps"]
    if "images_seen" in training:
        epochs = training["images_seen"] / data["images"]
        steps += [f"{training['images_seen']:,} images", f"{epochs:.1f} epochs", f"{training['minutes']:.0f} minutes"]
        rows += [("length", ", ".join(steps)), ("hardware", training["hardware"])]
        rows.append(("versions", ", ".join(f"{k} {v}" for k, v in training["versions"].items())))
    else:
        rows.append(("length", ", ".join(steps)))
    curve = ""
    if facts.bundled and not facts.repository:
        curve = f"\n\n![loss and kNN monitor](results/{facts.name}/curve.png)"
    return f"## Training\n\n{_rows(rows)}{curve}"


def _evaluation(facts: Facts) -> str:
    parts = ["## Evaluation"]
    rows = [f"| {_told(s)} | {s.value:g} | {s.where} |" for s in facts.published]
    rows += [f"| {_told(s)}, of this architecture and method | {s.value:g} | {s.where} |" for s in facts.like_these]
    if rows:
        head = [
            "Published by others (not measured here), in percent:",
            "",
            "| what | score | source |",
            "|---|---:|---|",
        ]
        parts.append("\n".join([*head, *rows]))
    if not facts.results:
        parts.append("Measured by this project: nothing yet.")
        return "\n\n".join(parts)
    parts.append(
        "Measured by this project, top-1 in percent with 95 % intervals, beside the same network with random weights\n"
        "(Kaiming initialisation, all BN gammas 1)."
    )
    parts.append(table(facts.results))
    parts += [f"{DATA_SETS[d].title} is {DATA_SETS[d].note}." for d in _data_sets(facts.results) if DATA_SETS[d].note]
    if facts.selection:
        parts.append(_wrap(facts.selection))
    parts.append(
        _wrap(
            f"kNN: {_knn(facts.results)}, all training images as the bank. Linear: logistic regression by L-BFGS on frozen "
            "features, l2 chosen on a tenth of the training images."
        )
    )
    if facts.bundled and not facts.repository:
        name = facts.name.partition(".")[0]
        parts.append(
            f"Every row is a JSON file in `results/{facts.name}/`, written by\n\n"
            f"    for protocol in knn linear; do for data in {' '.join(_data_sets(facts.results))}; do "
            f"for model in {name} {name}.random; do\n"
            f"      zoo evaluate $protocol --model $model --data DATA/$data "
            f"--out results/{facts.name}/$protocol.$data.$model.json\n"
            "    done; done; done"
        )
    return "\n\n".join(parts)


def _limits(facts: Facts) -> str:
    size = facts.preprocessing
    if facts.official:
        text = card_text.IMAGENET_LIMITS
    elif _data_of(facts) == "tiny-imagenet":
        text = card_text.TINY_LIMITS
    else:
        text = card_text.UNKNOWN_LIMITS
    if facts.bundled and facts.training:
        small = (
            f"It is small and was trained for {facts.training['minutes']:.0f} minutes on a CPU: take it for trying things "
            "out, for tests and for look-alike search among simple photographs, not as a replacement for ImageNet weights."
        )
        text = f"{_wrap(small)}\n\n{text}"
    crop = _wrap(
        f"Pixels outside the {size.input_size} pixel centre crop are not seen. Another preprocessing than the one above "
        "gives other, usually worse, features."
    )
    return f"{text}\n\n{crop}"


def _compute(facts: Facts) -> str:
    if facts.training and "minutes" in facts.training:
        minutes = facts.training["minutes"]
        length = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
        return _wrap(f"{length} on {facts.training['hardware']}. Energy and carbon were not measured.")
    method = METHODS.get(facts.method)
    if facts.official and method and method.compute:
        return _wrap(f"Stated by the authors: {method.compute}. Energy and carbon were not measured.")
    return "Not recorded; energy and carbon were not measured."


def _licence(facts: Facts) -> str:
    if is_non_commercial(facts.licence):
        text = (
            f"**{facts.licence}: not for commercial use.** The weights may be used and shared for non-commercial purposes "
            f"with attribution to their authors ({facts.source})."
        )
    elif facts.licence in ("", "unknown"):
        text = "Unknown: ask the owner of the weights before you use them."
    else:
        text = f"{facts.licence}."
    return _wrap(f"{text} The code of siamese-zoo is Apache-2.0.")


def _cite(facts: Facts) -> str:
    method = METHODS.get(facts.method)
    return f"## Cite\n\n```bibtex\n{method.bibtex}\n```" if method and method.bibtex else ""


# small things


def needs_import(architecture: Architecture) -> bool:
    """Whether timm and transformers need ``import zoo.timm_models`` to build this network."""
    from zoo.model_folder import OURS, timm_spelling

    return timm_spelling(architecture)[0].startswith(OURS)


def _network(architecture: Architecture) -> str:
    args = ", ".join(f"{k}={v}" for k, v in architecture.model_args.items())
    padding = {"symmetric": "", "same": "; TensorFlow's SAME padding", "same-pool": "; SAME padding in the pool"}
    return f"timm `{architecture.timm_name}`{f' ({args})' if args else ''}{padding[architecture.padding]}"


def _depth(architecture: Architecture) -> str:
    width = architecture.model_args.get("width_factor", 1)
    layers = architecture.model_args.get("layers")
    depth = 2 + 3 * sum(layers) if layers else int("".join(c for c in architecture.timm_name[6:] if c.isdigit())[-3:])
    if architecture.timm_name == "resnetv2_50" and not layers:
        depth = 50
    return f"ResNet-{depth}" + (f" of {width:g} times the width" if width != 1 else "")


def _pixels(transform: Preprocessing) -> str:
    text = f"RGB, {transform.says}"
    if (transform.mean, transform.std) == (registry.IMAGENET_224.mean, registry.IMAGENET_224.std):
        return f"{text}, ImageNet mean and std"
    return f"{text}, mean {', '.join(map(str, transform.mean))}, std {', '.join(map(str, transform.std))}"


def _told(score: Score) -> str:
    return score.protocol if score.verified else f"{score.protocol} (remembered, not looked up)"


def _short_licence(licence: str) -> str:
    return f"{licence}, **non-commercial**" if is_non_commercial(licence) else licence


def _data_of(facts: Facts) -> str | None:
    """The key of the training data in ``DATA_SETS``."""
    if facts.official:
        return "imagenet"
    name = facts.training["data"].get("name", "").partition("/")[0] if facts.training else ""
    return name if name in DATA_SETS else None


def _training_data(facts: Facts) -> str:
    assert facts.training is not None
    data = facts.training["data"]
    title = DATA_SETS[_data_of(facts) or ""].title if _data_of(facts) else data.get("name", "not recorded")
    images = f", {data['images']:,} unlabelled training images" if "images" in data else ""
    shards = " (two of four shards), 64 x 64 JPEG" if facts.bundled else ""
    return f"{title}{images}{shards}"


def _trained(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [r for r in results if not r["model"]["model"].endswith(".random")]


def _data_sets(results: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {r["data"]["name"] for r in results}
    return [name for name in DATA_SETS if name in found]


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])


def _wrap(text: str) -> str:
    from textwrap import fill

    return fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _find(results: Sequence[Mapping[str, Any]], protocol: str, data: str, is_random: bool) -> Mapping[str, Any]:
    for result in results:
        model = result["model"]["model"]
        if (result["protocol"], result["data"]["name"], model.endswith(".random")) == (protocol, data, is_random):
            return result
    which = "random" if is_random else "trained"
    raise UserError(f"no result of {protocol} on {data} for the {which} network: run `zoo evaluate` first")


def _knn(results: Sequence[Mapping[str, Any]]) -> str:
    """How many neighbours voted: fixed in results from before they were chosen."""
    if any("chosen_by" in r["parameters"] for r in results if r["protocol"] == "knn"):
        return "k of 200 and 20 and t of .07 and .1 chosen by leave-one-out on the training images"
    return "k = 20, t = .07"


def _score(result: Mapping[str, Any]) -> str:
    low, high = result["interval_95"]
    return f"{result['score']:.1f} ({low:.1f}-{high:.1f})"


def _split(name: str) -> tuple[str, str]:
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if tag is None or tag not in spec.weights:
        raise UserError(f"{name} has no card: it has no released weights")
    return spec.name, tag


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        return value
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
