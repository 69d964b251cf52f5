"""What names the content of a data set."""

from __future__ import annotations

from pathlib import Path

from zoo.datasets.opening import open_dataset

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))[:6]


def test_the_content_is_names_sizes_labels_and_bytes_wherever_they_lie(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for n, path in enumerate(PHOTOS):
        target = folder / f"class{n % 2}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    content = open_dataset(folder).content()
    moved = folder.rename(tmp_path / "moved")
    assert open_dataset(moved).content() == content
    image = moved / "class0" / PHOTOS[0].name
    data = image.read_bytes()
    image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # the same name and size
    assert open_dataset(moved).content() != content
    image.write_bytes(data + b"0")
    assert open_dataset(moved).content() != content
    image.write_bytes(data)
    assert open_dataset(moved).content() == content
    (moved / "class0").rename(moved / "class2")
    assert open_dataset(moved).content() != content
