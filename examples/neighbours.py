"""Draw the nearest neighbours of a few photographs from the output of `zoo extract`.

    python examples/neighbours.py --images examples/photos --embeddings embeddings --out neighbours.png

Each row shows the query, then the photographs nearest to it, nearest first, with rank and centred cosine. Nothing is
left out. `crops.py` makes a collection in which it is known what is alike.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageOps

SIDE, GAP, NEIGHBOURS = 128, 6, 5  # pixels, pixels, photographs per row
QUERIES = ("cat_kitten.jpg", "flower_dahlia.jpg", "mountain_picos.jpg", "pyramid_giza.jpg", "horses_meadow.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--images", "--embeddings", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--ask-for", nargs="+", default=QUERIES, metavar="PATH", help="queries: paths as in the table")
    arguments = parser.parse_args()

    table = pq.read_table(sorted(arguments.embeddings.glob("embeddings-*.parquet")), columns=["path", "embedding"])
    table = table.filter(table["embedding"].is_valid())
    paths = table["path"].to_pylist()
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    vectors -= vectors.mean(0)  # the part that all photographs share does not tell them apart
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    rows = []
    for path in arguments.ask_for:
        cosine = vectors @ vectors[paths.index(path)]
        order = [n for n in np.argsort(-cosine, kind="stable") if paths[n] != path][:NEIGHBOURS]
        rows.append([(path, None), *((paths[n], float(cosine[n])) for n in order)])
    draw(rows, arguments.images).save(arguments.out)
    print(arguments.out)


def draw(rows: list[list[tuple[str, float | None]]], folder: Path) -> Image.Image:
    step = SIDE + GAP
    sheet = Image.new("RGB", (step * (NEIGHBOURS + 1) + 3 * GAP, (step + 14) * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for rank, (path, cosine) in enumerate(row):
            left, top = rank * step + (3 * GAP if rank else 0), y * (step + 14)  # a gap after the query
            with Image.open(folder / path) as image:
                tile = ImageOps.exif_transpose(image)
                if tile.mode.startswith("I"):  # 16-bit gray
                    tile = Image.fromarray((np.asarray(tile, np.float32) / 257).astype(np.uint8))
                sheet.paste(ImageOps.fit(tile.convert("RGB"), (SIDE, SIDE)), (left, top))
            pen.text((left, top + SIDE), "asked for" if cosine is None else f"{rank} · {cosine:.2f}", fill="black")
    return sheet


if __name__ == "__main__":
    main()
