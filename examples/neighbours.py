"""Draw the nearest neighbours of a few photographs from the output of `zoo extract`.

    python examples/neighbours.py --images examples/photos --embeddings embeddings --out neighbours.png

Each row shows the query, then the photographs nearest to it, nearest first, with rank and centred cosine. Nothing is
left out. `crops.py` makes a collection in which it is known what is alike.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont, ImageOps

SIDE, GAP, TEXT, NEIGHBOURS = 128, 6, 13, 5  # pixels, pixels, pixels, photographs per row
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
    # What all photographs share does not tell them apart: as in `zoo index`, the mean of the unit vectors goes.
    vectors = unit(vectors)
    vectors = unit(vectors - vectors.mean(axis=0))

    rows = []
    for path in arguments.ask_for:
        cosine = vectors @ vectors[paths.index(path)]
        order = [n for n in np.argsort(-cosine, kind="stable") if paths[n] != path][:NEIGHBOURS]
        rows.append([(path, None), *((paths[n], float(cosine[n])) for n in order)])
    draw(rows, arguments.images).save(arguments.out)
    print(arguments.out)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors [N, D] to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw(rows: list[list[tuple[str, float | None]]], folder: Path) -> Image.Image:
    step, height = SIDE + GAP, SIDE + 2 * GAP + TEXT  # from one photograph to the next
    width = GAP + step * (NEIGHBOURS + 1) + 3 * GAP
    sheet = Image.new("RGB", (width, GAP + height * len(rows)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    for y, row in enumerate(rows):
        for rank, (path, cosine) in enumerate(row):
            left, top = GAP + rank * step + (3 * GAP if rank else 0), GAP + y * height  # a gap after the query
            with Image.open(folder / path) as image:
                tile = ImageOps.exif_transpose(image)
                if tile.mode.startswith("I"):  # 16-bit gray
                    tile = Image.fromarray((np.asarray(tile, np.float32) / 257).astype(np.uint8))
                sheet.paste(ImageOps.fit(tile.convert("RGB"), (SIDE, SIDE)), (left, top))
            text = "query" if cosine is None else f"{rank} · {cosine:.2f}"
            pen.text((left, top + SIDE + 1), text, fill="black", font=font)
    return sheet


if __name__ == "__main__":
    main()
