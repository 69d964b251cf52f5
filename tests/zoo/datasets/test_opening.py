"""Labelled images from folders and parquet, and their splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zoo.datasets.labelled import open_splits
from zoo.datasets.opening import evaluation_splits, open_dataset
from zoo.errors import UserError

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))[:6]


def parquet(path: Path, labels: list[object], *, nested: bool = False, groups: int = 100) -> Path:
    data: list[object] = [p.read_bytes() for p in PHOTOS[: len(labels)]]
    if nested:  # as Hugging Face datasets writes images
        data = [{"bytes": b, "path": None} for b in data]
    pq.write_table(pa.table({"image": data, "label": labels}), path, row_group_size=groups)
    return path


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("groups", [2, 100])
def test_parquet_rows_come_back(tmp_path: Path, nested: bool, groups: int) -> None:
    dataset = open_dataset(parquet(tmp_path / "x.parquet", [2, 0, 1, 0], nested=nested, groups=groups))
    assert dataset.required_labels.tolist() == [2, 0, 1, 0]
    assert dataset.classes == ["0", "1", "2"]
    for n in (2, 0, 1):  # none of these has an EXIF orientation
        np.testing.assert_array_equal(np.array(dataset.image(n)), np.array(Image.open(PHOTOS[n]).convert("RGB")))


def test_a_folder_per_class_and_the_same_images_hash_the_same(tmp_path: Path) -> None:
    for n, path in enumerate(PHOTOS):
        folder = tmp_path / "data" / "train" / f"class{n % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    dataset = open_dataset(tmp_path / "data", "train")
    assert dataset.classes == ["class0", "class1"]
    assert dataset.required_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.sha256() == open_dataset(tmp_path / "data" / "train").sha256()


def test_a_test_split_takes_precedence_over_val(tmp_path: Path) -> None:
    parquet(tmp_path / "train-0.parquet", [0, 1])
    parquet(tmp_path / "val.parquet", [0, 1, 1])
    assert len(evaluation_splits(tmp_path)[1]) == 3
    parquet(tmp_path / "test.parquet", [1])
    train, test = evaluation_splits(tmp_path)
    assert (len(train), len(test)) == (2, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing", "no data at"),
        (lambda p: p, "no images under"),
        (lambda p: parquet(p / "a.parquet", [0, None]), "1 rows have no label"),
    ],
)
def test_what_is_no_data_is_one_line(tmp_path: Path, make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(make(tmp_path))  # type: ignore[operator]


def test_a_file_that_is_no_parquet_and_a_table_without_images(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(UserError, match=r"^x: "):
        open_dataset(tmp_path / "x.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    with pytest.raises(UserError, match="has no image column"):
        open_dataset(tmp_path / "y.parquet")


def test_labels_that_are_identifiers_and_columns_without_bytes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a label of 10000000000000: number the classes from 0"):
        open_dataset(parquet(tmp_path / "x.parquet", [10**13, 0]))
    pq.write_table(pa.table({"image": [{"path": "a"}], "label": [0]}), tmp_path / "y.parquet")
    with pytest.raises(UserError, match="y: column image holds struct<path: string>: it must hold the bytes"):
        open_dataset(tmp_path / "y.parquet")
    with pytest.raises(UserError, match="no data at ''"):
        open_dataset("")


def test_a_class_that_training_lacks_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", [0, 1])
    parquet(tmp_path / "test.parquet", [2])
    with pytest.raises(UserError, match="has classes that"):
        evaluation_splits(tmp_path)


@pytest.mark.parametrize("label", [[0, 2], "[0, 2]", '{"a": 1}'])
def test_several_labels_an_image_are_not_taken_for_a_class(tmp_path: Path, label: object) -> None:
    path = parquet(tmp_path / "x.parquet", [label] * 3)
    with pytest.raises(UserError, match=r"the label .* is a list: images with several labels"):
        open_dataset(path)


def class_folders(folder: Path) -> Path:
    for n, path in enumerate(PHOTOS):
        target = folder / f"class{n % 2}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


def test_hidden_folders_and_files_are_no_classes_and_no_images(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "data")
    for name in (".ipynb_checkpoints/a.jpg", "class0/.ipynb_checkpoints/a.jpg", "class0/._a.jpg", ".hidden.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(PHOTOS[0].read_bytes())
    dataset = open_dataset(folder)
    assert (dataset.classes, len(dataset)) == (["class0", "class1"], len(PHOTOS))


def test_an_image_beside_the_class_folders_is_named(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "data")
    (folder / "stray.jpg").write_bytes(PHOTOS[0].read_bytes())
    dataset = open_dataset(folder)
    assert (len(dataset), dataset.labels) == (len(PHOTOS) + 1, None)
    with pytest.raises(UserError, match=r"has no labels: .*stray\.jpg lies outside of the class folders"):
        dataset.required_labels  # noqa: B018


@pytest.mark.parametrize("labels", [[-1, -1, -1, -1], [0, 0, 0, 0], ["cat"] * 4])
def test_one_label_for_all_is_no_score(tmp_path: Path, labels: list[object]) -> None:
    one = parquet(tmp_path / "one.parquet", labels)
    for split in ("train", "test"):
        parquet(tmp_path / f"{split}.parquet", labels)
    for source in (one, tmp_path):
        with pytest.raises(UserError, match="a score needs two classes") as caught:
            open_splits(source)
        assert "\n" not in str(caught.value)


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    for n, path in enumerate(PHOTOS[:4]):
        folder = tmp_path / "all" / f"class{n % 2}" / ("deep" if n > 1 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    (tmp_path / "subset" / "class1").mkdir(parents=True)
    (tmp_path / "subset" / "class0").symlink_to(tmp_path / "all" / "class0")
    (tmp_path / "subset" / "class1" / "more").symlink_to(tmp_path / "all" / "class1")
    (tmp_path / "subset" / "class1" / "round").symlink_to("..")
    dataset = open_dataset(tmp_path / "subset")
    first, second, third, fourth = (path.name for path in PHOTOS[:4])
    names = [f"class0/{first}", f"class0/deep/{third}", f"class1/more/{second}", f"class1/more/deep/{fourth}"]
    assert sorted(dataset.row_name(n) for n in range(len(dataset))) == sorted(names)
    assert dataset.required_labels.tolist() == [0, 0, 1, 1]


def test_embeddings_among_the_images_are_no_data(tmp_path: Path) -> None:
    """``zoo extract PHOTOS --out PHOTOS`` was refused by ``zoo-train run --data PHOTOS``."""
    for path in PHOTOS:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    pq.write_table(pa.table({"path": ["a"], "embedding": [[1.0]]}), tmp_path / "embeddings-00000.parquet")
    with pytest.raises(UserError, match="has no image column"):  # somebody's own table
        open_dataset(tmp_path)
    (tmp_path / ".zoo").mkdir()
    assert len(open_dataset(tmp_path)) == len(PHOTOS)
