"""Train a linear head on a few labelled photographs and classify the rest, from the output of `zoo extract`.

python classify.py --embeddings OUT --images PHOTOS --labels labels.csv --out RESULT
"""

import argparse
import base64
import csv
import html
import io
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

SHOWN, SIDE = 48, 200  # photographs on the page, pixels of a thumbnail
STRENGTHS = np.logspace(-4, 2, 7)  # inverse of the l2 regularisation, scikit-learn's C


def read_embeddings(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return paths and embeddings float32 [N, D] of the images that could be read."""
    table = pq.read_table(sorted(folder.glob("embeddings-*.parquet")), columns=["path", "embedding"])
    table = table.filter(table["embedding"].is_valid())
    return table["path"].to_pylist(), np.stack(table["embedding"].to_numpy()).astype(np.float32)


def read_labels(file: Path, known: set[str]) -> dict[str, str]:
    """Return path -> label; exit with a message if the file cannot be used."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not {"path", "label"} <= set(rows[0]):
        sys.exit(f"{file}: the first line must name the columns path and label, and rows must follow")
    labels = {row["path"]: (row["label"] or "").strip() for row in rows}
    if unknown := sorted(set(labels) - known):
        sys.exit(f"{file}: {len(unknown)} paths are not among the embeddings, first {unknown[0]}")
    labels = {path: label for path, label in labels.items() if label}
    counts = Counter(labels.values())
    if len(counts) < 2:
        sys.exit(f"{file}: give two labels or more, found {dict(counts)}")
    if alone := [label for label, count in counts.items() if count < 2]:
        sys.exit(f"{file}: each label needs two photographs or more; {alone[0]!r} has one")
    return labels


def train(vectors: np.ndarray, labels: list[str]) -> tuple[Pipeline, float]:
    """Return the head and its cross-validated accuracy."""
    folds = StratifiedKFold(min(5, *Counter(labels).values()), shuffle=True, random_state=0)
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    search = GridSearchCV(head, {"logisticregression__C": STRENGTHS}, cv=folds)
    search.fit(vectors, labels)
    return search.best_estimator_, float(search.best_score_)


def page(rows: list[tuple[str, list[tuple[str, float]]]], images: Path) -> str:
    """Return one HTML page with embedded thumbnails of ``rows``: path and its likeliest labels."""
    figures = []
    for path, guesses in rows:
        with Image.open(images / path) as image:
            tile = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (SIDE, SIDE))
        data = io.BytesIO()
        tile.save(data, "JPEG", quality=80)
        source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        text = " or ".join(f"{html.escape(label)} {share:.0%}" for label, share in guesses)
        figures.append(
            f'<figure><img src="{source}" alt=""><figcaption><b>{html.escape(path)}</b><br>{text}</figcaption></figure>'
        )
    style = (
        "body{font-family:system-ui;margin:2rem}main{display:grid;gap:1rem;"
        f"grid-template-columns:repeat(auto-fill,minmax({SIDE}px,1fr))}}figure{{margin:0;overflow-wrap:anywhere}}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Least certain</title><style>{style}</style>'
        f"<h1>The {len(rows)} least certain</h1><p>Add the right lines to the labels and run again.</p>"
        f"<main>{''.join(figures)}</main></html>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--embeddings", "--images", "--labels", "--out"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()

    # train on the labelled photographs
    paths, vectors = read_embeddings(arguments.embeddings)
    labels = read_labels(arguments.labels, set(paths))
    labelled = np.array([path in labels for path in paths])
    if labelled.all():
        sys.exit("every photograph has a label: nothing is left to classify")
    start = time.perf_counter()
    head, accuracy = train(vectors[labelled], [labels[path] for path in paths if path in labels])
    seconds = time.perf_counter() - start
    print(f"trained on {labelled.sum()} photographs in {seconds:.1f} s; cross-validated accuracy {accuracy:.1%}")

    # classify the rest, the least certain first: those whose two likeliest labels nearly tie
    probabilities = head.predict_proba(vectors[~labelled])
    rest = [path for path in paths if path not in labels]
    top_two = np.sort(probabilities, axis=1)[:, -2:]
    order = np.argsort(top_two[:, 1] - top_two[:, 0], kind="stable")

    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "probability"])
        for n in order:
            best = int(probabilities[n].argmax())
            writer.writerow([rest[n], head.classes_[best], f"{probabilities[n, best]:.4f}"])
    shown = []
    for n in order[:SHOWN]:
        likeliest = np.argsort(-probabilities[n], kind="stable")[:2]
        shown.append((rest[n], [(str(head.classes_[k]), float(probabilities[n, k])) for k in likeliest]))
    (arguments.out / "uncertain.html").write_text(page(shown, arguments.images), encoding="utf-8")
    print(f"{arguments.out}: {len(rest)} classified, {len(shown)} least certain in uncertain.html")


if __name__ == "__main__":
    main()
