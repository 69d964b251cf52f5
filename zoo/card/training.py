"""The sections of a card on how the weights came about: data, recipe, length, compute."""

from __future__ import annotations

from zoo.card.facts import Facts
from zoo.card.markdown import rows, wrap
from zoo.card.wording import DATA_SETS, METHODS


def section(facts: Facts) -> str:
    """Data, recipe and length."""
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
        text = f"## Training\n\n{wrap(what + again)}"
        if facts.others:
            text += "\n\n" + wrap(f"Other weights of this network: {', '.join(f'`{o}`' for o in facts.others)}.")
        return text
    training = facts.training
    recipe = training["recipe"]
    optim, views, data = recipe["optim"], recipe["views"], training["data"]
    pairs = [("data", _training_data(facts))]
    pairs.append(
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
        pairs += [("length", ", ".join(steps)), ("hardware", training["hardware"])]
        pairs.append(("versions", ", ".join(f"{k} {v}" for k, v in training["versions"].items())))
    else:
        pairs.append(("length", ", ".join(steps)))
    curve = ""
    if facts.bundled and not facts.repository:
        curve = f"\n\n![loss and kNN monitor](results/{facts.name}/curve.png)"
    return f"## Training\n\n{rows(pairs)}{curve}"


def compute(facts: Facts) -> str:
    """Time and hardware; energy was never measured."""
    if facts.training and "minutes" in facts.training:
        minutes = facts.training["minutes"]
        length = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
        return wrap(f"{length} on {facts.training['hardware']}. Energy and carbon were not measured.")
    method = METHODS.get(facts.method)
    if facts.official and method and method.compute:
        return wrap(f"Stated by the authors: {method.compute}. Energy and carbon were not measured.")
    return "Not recorded; energy and carbon were not measured."


def _training_data(facts: Facts) -> str:
    assert facts.training is not None
    data = facts.training["data"]
    title = DATA_SETS[facts.data or ""].title if facts.data else data.get("name", "not recorded")
    images = f", {data['images']:,} unlabelled training images" if "images" in data else ""
    shards = " (two of four shards), 64 x 64 JPEG" if facts.bundled else ""
    return f"{title}{images}{shards}"
