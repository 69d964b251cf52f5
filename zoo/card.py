"""Model cards, generated from the registry and from the JSON files that training and evaluation wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo import registry
from zoo.errors import UserError
from zoo.files import atomic_write_text
from zoo.registry import ARCHITECTURES, MODELS, Weights

CARDS = Path(__file__).parents[1] / "model_cards"
DATA_SETS = {  # folder name -> how it is called
    "tiny-imagenet": "Tiny-ImageNet",
    "cifar10-jpeg": "CIFAR-10 (JPEG)",
    "flowers17": "Flowers-17",
}
PROTOCOLS = {"knn": "kNN", "linear": "linear"}


def results_folder(name: str, tag: str) -> Path:
    """Where the JSON files behind a card stand."""
    return CARDS / "results" / f"{name}.{tag}"


def write(name: str) -> Path:
    """Writes the card of a bundled model; returns its path.

    Raises:
        UserError: no such model, it has no card, or a JSON file behind it is missing.
    """
    path, text = CARDS / f"{name}.md", render(name)
    atomic_write_text(path, text)
    return path


def render(name: str) -> str:
    """The card as Markdown."""
    tag, weights = _weights(name)
    spec = MODELS[name]
    architecture = ARCHITECTURES[spec.architecture]
    training = _read(results_folder(name, tag) / "training.json")
    results = load_results(name, tag)
    recipe, transform = training["recipe"], weights.preprocessing
    optim, views = recipe["optim"], recipe["views"]
    epochs = training["images_seen"] / training["data"]["images"]
    return f"""---
library_name: timm
pipeline_tag: image-feature-extraction
license: {weights.licence.lower()}
datasets: [tiny-imagenet]
tags: [self-supervised, {spec.method}, resnet, image-embedding]
---

# {name}.{tag}

<!-- written by `zoo card {name}` from the registry and results/{name}.{tag}/; do not edit -->

A ResNet-18 with the ImageNet stem, trained with {recipe["method"].upper() if spec.method == "byol" else "SimSiam"} and
without labels on Tiny-ImageNet. It ships with the package so that `zoo extract` works offline. It is small and was
trained for {training["minutes"]:.0f} minutes on {training["hardware"].split(" (")[0]}: take it for trying things out, for
tests and for look-alike search among simple photographs, not as a replacement for ImageNet weights.

| | |
|---|---|
| embedding | {architecture.num_features} numbers, {architecture.parameters / 1e6:.3f} M parameters |
| pixels | RGB, short side to {transform.resize} ({transform.interpolation}), centre crop {transform.input_size}, ImageNet mean and std |
| licence | {weights.licence} |
| file | `{weights.location.removeprefix("bundled:")}`, float16 convolutions, float32 BN, sha256 `{weights.sha256}` |

## Training

| | |
|---|---|
| data | Tiny-ImageNet, {training["data"]["images"]:,} unlabelled training images (two of four shards), 64 x 64 JPEG |
| recipe | `zoo-train run {recipe["name"]}`: {views["size"]} pixel views, {optim["name"].upper()}, base lr {optim["lr"]:g} per 256, batch {optim["batch_size"]}, weight decay {optim["weight_decay"]:g}, tau {optim["tau"]:g} to 1, seed {recipe["seed"]} |
| length | {training["steps"]:,} steps, {training["images_seen"]:,} images, {epochs:.1f} epochs, {training["minutes"]:.0f} minutes |
| hardware | {training["hardware"]} |
| versions | {", ".join(f"{k} {v}" for k, v in training["versions"].items())} |

![loss and kNN monitor](results/{name}.{tag}/curve.png)

## Scores

Top-1 in percent with 95 % intervals, beside the same network with random weights (Kaiming initialisation, all BN
gammas 1). Not comparable with published numbers: the images are small, and CIFAR-10 (JPEG) is recompressed.

{table(results)}

{weights.selection}

kNN: k = 20, t = .07, all training images as the bank. Linear: logistic regression by L-BFGS on frozen features, l2
chosen on a tenth of the training images. Every row is a JSON file in `results/{name}.{tag}/`, written by

    for protocol in knn linear; do for data in {" ".join(DATA_SETS)}; do for model in {name} {name}.random; do
      zoo evaluate $protocol --model $model --data DATA/$data --out results/{name}.{tag}/$protocol.$data.$model.json
    done; done; done

## Use

    zoo extract --images DIR --out OUT                        # this network is the default
    zoo.load()(["photo.jpg"])                                 # Python: float32 [1, {architecture.num_features}]
    torch.hub.load("PATH/TO/siamese-zoo", "{name}", source="local")
    zoo export --model {name} --out model.onnx

## Limits

It has seen 64-pixel photographs of 200 everyday classes of ImageNet, with their geographic and cultural bias; small
text, faces, medical or satellite images are outside what it knows. Details smaller than about a fiftieth of the picture
are lost before the network sees them. Nothing was filtered from the training data.

## Cite

Grill et al., Bootstrap Your Own Latent, 2020 (arXiv 2006.07733); Chen and He, Exploring Simple Siamese Representation
Learning, 2020 (arXiv 2011.10566).
"""


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row per data set, trained against random by protocol."""
    rows = ["| data | " + " | ".join(f"{p} trained | {p} random | gain" for p in PROTOCOLS.values()) + " |"]
    rows.append("|---|" + "---:|" * 3 * len(PROTOCOLS))
    for data, title in DATA_SETS.items():
        cells = [title]
        for protocol in PROTOCOLS:
            trained, random = (_find(results, protocol, data, is_random) for is_random in (False, True))
            gain = trained["score"] - random["score"]
            cells += [_score(trained), _score(random), f"**{gain:+.1f}**"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def load_results(name: str, tag: str) -> list[dict[str, Any]]:
    """All evaluation JSON files behind a card."""
    return [_read(p) for p in sorted(results_folder(name, tag).glob("*.json")) if p.name != "training.json"]


def _find(results: list[dict[str, Any]], protocol: str, data: str, is_random: bool) -> dict[str, Any]:
    for result in results:
        model = result["model"]["model"]
        if (result["protocol"], result["data"]["name"], model.endswith(".random")) == (protocol, data, is_random):
            return result
    which = "random" if is_random else "trained"
    raise UserError(f"no result of {protocol} on {data} for the {which} network: run `zoo evaluate` first")


def _score(result: dict[str, Any]) -> str:
    low, high = result["interval_95"]
    return f"{result['score']:.1f} ({low:.1f}-{high:.1f})"


def _weights(name: str) -> tuple[str, Weights]:
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    weights = spec.weights.get(tag or "")
    if tag is None or weights is None or weights.card is None:
        raise UserError(f"{name} has no card: only weights trained by this project have one")
    return tag, weights


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        return value
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
