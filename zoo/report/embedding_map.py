"""A two-dimensional map of embeddings with thumbnails, as one HTML file that needs no network."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from zoo.errors import UserError
from zoo.evaluate.features import ImageDataset
from zoo.system.atomic_files import atomic_write_text

IMAGES = 600  # at most; a thumbnail is about 1 kB of the file
_SIDE = 40  # of a thumbnail, pixels


def write_map(
    features: NDArray[np.float32],
    truth: NDArray[np.int64],
    answers: NDArray[np.int64],
    images: ImageDataset,
    classes: list[str],
    path: Path,
    *,
    title: str,
) -> None:
    """Write the page: drag to move, wheel to zoom, hover for the image with its class and kNN answer.

    Args:
        features: [M, D] of ``images``; at most ``IMAGES`` of them are drawn, chosen at random.
        truth, answers: classes int64 [M], right and given by kNN.
        classes: names.

    Raises:
        UserError: scikit-learn is not installed.
    """
    # A random part of the images keeps the page small.
    chosen = np.sort(np.random.Generator(np.random.Philox(key=0)).permutation(len(features))[:IMAGES])
    positions = tsne(np.asarray(features[chosen]))
    points = [
        {
            "x": round(float(x), 4),
            "y": round(float(y), 4),
            "c": int(truth[row]),
            "a": int(answers[row]),
            "t": _thumbnail(images.image(int(row))),
        }
        for row, (x, y) in zip(chosen, positions, strict=True)
    ]
    # The data lies inside a script, so no tag may begin in it.
    data = json.dumps({"points": points, "classes": classes, "side": _SIDE}).replace("<", "\\u003c")
    atomic_write_text(path, _PAGE.replace("TITLE", escape(title)).replace("DATA", data))


def tsne(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return positions [M, 2] in 0..1 of features [M, D]: l2 norm, PCA to 50, t-SNE from the first two components.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError:
        raise UserError("the map needs scikit-learn: pip install 'siamese-zoo[eval]'") from None
    # Unit length makes distance follow cosine similarity.
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    count = len(unit)
    # A handful of points has no neighbourhoods to preserve.
    if count < 5:
        positions = np.zeros((count, 2)) + np.arange(count)[:, None]
    else:
        reduced = PCA(min(50, count - 1, unit.shape[1]), random_state=0).fit_transform(unit.astype(np.float64))
        positions = TSNE(2, perplexity=min(30, (count - 1) / 3), init="pca", random_state=0).fit_transform(reduced)
    # Fit the positions into the unit square.
    low, high = positions.min(0), positions.max(0)
    scaled: NDArray[np.float64] = (positions - low) / np.maximum(high - low, 1e-12)
    return scaled


def _thumbnail(image: Image.Image) -> str:
    buffer = io.BytesIO()
    ImageOps.fit(image, (_SIDE, _SIDE), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>TITLE</title>
<style>
body { margin: 0; font: 14px system-ui, sans-serif; overflow: hidden; background: #fafafa }
canvas { display: block; cursor: grab }
#head { position: fixed; left: 12px; top: 8px; background: #fffc; padding: 4px 8px; border-radius: 4px }
#tip { position: fixed; display: none; pointer-events: none; background: #fff; padding: 6px; border-radius: 4px;
       box-shadow: 0 2px 8px #0004 }
#tip img { width: 120px; height: 120px; display: block }
</style>
<canvas id="map"></canvas>
<div id="head"><b>TITLE</b>: <span id="count"></span> test images by t-SNE; the frame's colour is the class, a dashed red
frame a wrong kNN answer. Drag, wheel, hover.</div><div id="tip"><img alt=""><span></span></div>
<script>
const { points, classes, side } = DATA;
const canvas = document.getElementById("map"), pen = canvas.getContext("2d"), tip = document.getElementById("tip");
let scale = 1, dx = 0, dy = 0, from = null;
const colour = c => `hsl(${(c * 137.508) % 360} 65% 45%)`;
const place = p => [dx + scale * (30 + p.x * (canvas.width - 60 - side)), dy + scale * (50 + p.y * (canvas.height - 90 - side))];
const size = () => side * Math.max(.6, Math.min(2, Math.sqrt(scale)));
function draw() {
  pen.setTransform(1, 0, 0, 1, 0, 0); pen.clearRect(0, 0, canvas.width, canvas.height);
  const s = size();
  for (const p of points) {
    const [x, y] = place(p);
    if (x < -s || y < -s || x > canvas.width || y > canvas.height) continue;
    pen.drawImage(p.image, x, y, s, s);
    pen.lineWidth = 3; pen.setLineDash(p.a === p.c ? [] : [4, 3]);
    pen.strokeStyle = p.a === p.c ? colour(p.c) : "#d00"; pen.strokeRect(x, y, s, s);
  }
}
function resize() { canvas.width = innerWidth; canvas.height = innerHeight; draw(); }
canvas.onwheel = e => { e.preventDefault(); const f = e.deltaY < 0 ? 1.15 : 1 / 1.15;
  dx = e.clientX - f * (e.clientX - dx); dy = e.clientY - f * (e.clientY - dy); scale *= f; draw(); };
canvas.onmousedown = e => { from = [e.clientX - dx, e.clientY - dy]; };
onmouseup = () => { from = null; };
onmousemove = e => {
  if (from) { dx = e.clientX - from[0]; dy = e.clientY - from[1]; draw(); return; }
  const s = size(), hit = points.findLast(p => { const [x, y] = place(p);
    return e.clientX >= x && e.clientX < x + s && e.clientY >= y && e.clientY < y + s; });
  tip.style.display = hit ? "block" : "none";
  if (!hit) return;
  tip.querySelector("img").src = hit.t;
  tip.querySelector("span").textContent = classes[hit.c] + (hit.a === hit.c ? "" : ", taken for " + classes[hit.a]);
  tip.style.left = Math.min(e.clientX + 14, innerWidth - 160) + "px"; tip.style.top = Math.min(e.clientY + 14, innerHeight - 170) + "px";
};
document.getElementById("count").textContent = points.length;
Promise.all(points.map(p => new Promise((done, fail) => {
  p.image = new Image(); p.image.onload = done; p.image.onerror = fail; p.image.src = p.t; }))).then(() => {
  onresize = resize; resize(); document.body.dataset.drawn = points.length; });
</script></html>
"""
