"""The sections of a card about the training: data, recipe, length, compute."""

from __future__ import annotations

from zoo.publish.card.facts import Facts, TrainingRecord
from zoo.publish.card.markdown import rows, wrap
from zoo.publish.card.wording import DATA_SETS, METHODS
from zoo.system.markdown import markdown_text

_TINY_IMAGENET = 100_000  # training images, on which the networks that ship were trained
_OTHERS = ("facebookresearch/vissl", "HobbitLong/PyContrast")  # not every method in them is their authors'


def section(facts: Facts) -> str:
    """Return data, recipe and length of the training."""
    # Our own runs have a record, others' only a source.
    if facts.training is not None:
        return _recorded(facts, facts.training)
    if not facts.official:
        return "## Training\n\nHow it was trained is not recorded here."
    # Say who trained it and on what.
    by, labels = ("the authors", "with") if facts.method == "supervised" else ("the method's authors", "without")
    if facts.source == "HobbitLong/CMC" and facts.method != "cmc":
        by = "CMC's authors"
    if facts.source.startswith(_OTHERS):
        by = f"{facts.source.split(',')[0].split('/')[1]}, which trains many methods,"
    images = DATA_SETS[facts.data or "imagenet"].images
    what = (f"Trained by {by} on {images}, {labels} their labels: {facts.source}.") + (
        f" {facts.note}" if facts.note else ""
    )
    # Say how to train it again.
    again = (
        f" The recipe with their constants, to train it again: `zoo-train run {facts.recipe}`." if facts.recipe else ""
    )
    method = METHODS.get(facts.method)
    # Supervised weights with another recipe than ours are none that fp32 reproduces.
    if method and method.precision and (facts.recipe or facts.method != "supervised"):
        again += f" {method.precision}"
    text = f"## Training\n\n{wrap(what + again)}"
    if facts.others:
        text += "\n\n" + wrap(f"Other weights of this network: {', '.join(f'`{o}`' for o in facts.others)}.")
    return text


def _recorded(facts: Facts, training: TrainingRecord) -> str:
    # What was trained, on which data.
    recipe = training["recipe"]
    optim, views, data = recipe["optim"], recipe["views"], training["data"]
    pairs = [("data", _training_data(facts, training))]
    pairs.append(
        (
            "recipe",
            f"`zoo-train run {markdown_text(recipe['name'])}`: {views['size']} pixel views, {markdown_text(optim['name'].upper())}, base lr "
            f"{optim['lr']:g} per 256, batch {optim['batch_size']}, weight decay {optim['weight_decay']:g}, "
            + (f"tau {optim['tau']:g} to 1, " if facts.method == "byol" else "")
            + f"seed {recipe['seed']}"
            + (f", {recipe['precision']}" if recipe.get("precision", "fp32") != "fp32" else ""),
        )
    )
    if "init" in training:
        start = training["init"]
        hashed = f", sha256 `{markdown_text(start['sha256'])}`" if start["sha256"] else ""
        pairs.append(("started from", f"{markdown_text(start['weights'])}{hashed}"))
    pairs += [("before that", _earlier(run)) for run in reversed(facts.earlier)]
    # How long, and on which hardware.
    steps, total, seen = training["steps"], training["total_steps"], training["images_seen"]
    unfinished = "" if steps == total else f" of {total:,}: not finished"
    epochs = f"{seen:,} images, {seen / data['images']:.1f} epochs"
    pairs.append(("length", f"{steps:,} steps{unfinished}, {epochs}, {_time(training['minutes'])}"))
    pairs.append(("hardware", markdown_text(training["hardware"])))
    if "versions" in training:
        pairs.append(("versions", ", ".join(markdown_text(f"{k} {v}") for k, v in training["versions"].items())))
    # Only bundled models have their curve in the repository.
    curve = ""
    if facts.bundled and not facts.repository:
        curve = f"\n\n![loss and kNN monitor](results/{facts.name}/curve.png)"
    return f"## Training\n\n{rows(pairs)}{curve}"


def _earlier(run: TrainingRecord) -> str:
    """Return the length of a run whose weights another one started from."""
    recipe, data = run["recipe"], run["data"]
    return (
        f"{run['images_seen']:,} images, {run['images_seen'] / data['images']:.1f} epochs of {data['images']:,}, in "
        f"{recipe['views']['size']} pixel views, base lr {recipe['optim']['lr']:g}, batch "
        f"{recipe['optim']['batch_size']}, {_time(run['minutes'])}"
    )


def compute(facts: Facts) -> str:
    """Return time and hardware; energy was never measured."""
    if facts.training:
        minutes = sum(run["minutes"] for run in (*facts.earlier, facts.training))
        length = _time(minutes) if minutes < 120 else f"{minutes / 60:.1f} hours"
        return wrap(f"{length} on {markdown_text(facts.training['hardware'])}. Energy and carbon were not measured.")
    method = METHODS.get(facts.method)
    if facts.official and method and method.compute:
        return wrap(f"Stated by the authors: {method.compute}. Energy and carbon were not measured.")
    return "Not recorded; energy and carbon were not measured."


def _time(minutes: float) -> str:
    return f"{minutes:.{0 if minutes >= 10 else 1}f} minutes"


def _training_data(facts: Facts, training: TrainingRecord) -> str:
    data = training["data"]
    title = DATA_SETS[facts.data or ""].title if facts.data else markdown_text(data.get("name", "not recorded"))
    labels = "labelled" if facts.method == "supervised" else "unlabelled"
    images = f", {data['images']:,} {labels} training images"
    if not facts.bundled:
        return f"{title}{images}"
    half = " (two of four shards)" if data["images"] < _TINY_IMAGENET else ""
    return f"{title}{images}{half}, 64 x 64 JPEG"
