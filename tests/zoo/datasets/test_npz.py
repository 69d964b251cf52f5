"""Arrays and torchvision's data sets behind the same interface."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, picture

from zoo.datasets.dataset import decoded_once
from zoo.datasets.labelled import open_splits, training_splits
from zoo.datasets.opening import evaluation_splits, open_dataset, open_training_data
from zoo.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), np.uint8)
LABELS = np.array([0, 2, 1, 0, 2, 1])


def test_npy_is_mapped_and_has_its_labels_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    assert open_dataset(tmp_path / "x.npy").labels is None
    np.save(tmp_path / "x.labels.npy", LABELS[:, None])
    dataset = open_dataset(tmp_path / "x.npy")
    assert dataset.required_labels.tolist() == LABELS.tolist()
    np.testing.assert_array_equal(dataset.pixels(4), PIXELS[4])
    np.testing.assert_array_equal(np.array(dataset.image(4)), PIXELS[4])
    assert dataset.sha256() == decoded_once(dataset).sha256()


def test_npz_with_splits_and_gray_images(tmp_path: Path) -> None:
    gray = PIXELS[..., 0]
    np.savez_compressed(
        tmp_path / "m.npz", train_images=gray, train_labels=LABELS, test_images=gray[:2], test_labels=LABELS[:2]
    )
    train = open_training_data(tmp_path / "m.npz")
    assert (len(train), len(open_dataset(tmp_path / "m.npz", "test"))) == (6, 2)
    np.testing.assert_array_equal(train.pixels(3), np.repeat(gray[3][..., None], 3, 2))
    np.savez(tmp_path / "train.npz", images=PIXELS, labels=LABELS)
    np.savez(tmp_path / "test.npz", images=PIXELS[:3], labels=LABELS[:3])
    assert [len(d) for d in evaluation_splits(tmp_path)] == [6, 3]


def test_an_npz_s_own_test_images_give_the_score(tmp_path: Path) -> None:
    """Once a fifth of the training images was held out instead, and the others became the whole file."""
    path, labels = tmp_path / "m.npz", np.arange(6) % 2
    np.savez(path, train_images=PIXELS, train_labels=labels, test_images=PIXELS[:3], test_labels=labels[:3])
    splits = open_splits(path)
    assert (len(splits.train), splits.val, len(splits.test), splits.rule) == (6, None, 3, "as given")
    assert [split.name for split in (splits.train, splits.test)] == ["m", "m/test"]
    assert [len(part) for part in training_splits(path)] == [6, 3]
    with pytest.raises(UserError, match="has no array val_images; it has train_images"):
        open_dataset(path, "val")


def test_an_npz_without_splits_holds_a_fifth_out(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, images=np.repeat(PIXELS, 2, 0), labels=np.arange(12) % 2)
    assert "held out" in open_splits(path).rule


def npz_with(header: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    return buffer.getvalue()


def test_what_is_wrong_with_an_array_is_one_line(tmp_path: Path) -> None:
    def refused(name: str, data: bytes | dict[str, np.ndarray], message: str) -> None:
        path = tmp_path / name
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            np.savez(path, **data)
        with pytest.raises(UserError, match=message) as caught:
            open_dataset(path)
        assert "\n" not in str(caught.value)

    whole = io.BytesIO()
    np.save(whole, PIXELS)
    refused("a.npy", whole.getvalue()[:500], "cannot be read as images")
    refused("b.npy", b"no array", "cannot be read as images")
    objects = io.BytesIO()
    np.save(objects, np.array([{}]), allow_pickle=True)
    refused("c.npy", objects.getvalue(), "cannot be read as images")
    refused("d.npz", b"PK no zip", "cannot be read as images")
    refused("e.npz", {"images": PIXELS.astype(np.float32)}, "must be uint8")
    refused("f.npz", {"images": PIXELS, "labels": LABELS[:3]}, "labels must be 6 whole numbers")
    refused("g.npz", {"images": PIXELS, "labels": -LABELS}, "labels must be")
    refused(
        "k.npz",
        {"images": PIXELS, "labels": np.where(LABELS, LABELS.astype(np.uint64), np.uint64(2**63 + 5))},
        "labels must be",
    )
    refused("l.npz", {"images": PIXELS[0]}, "is one RGB image")
    refused("h.npz", {"pictures": PIXELS}, "has no array images")
    refused("i.npz", {"images": PIXELS[:0]}, "holds no images")
    huge = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999, 999, 999, 3), }".ljust(117) + b"\n"
    refused("j.npz", npz_with(huge), "cannot be read as images|does not fit")


def fashion_mnist(root: Path, count: int) -> np.ndarray:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(1).integers(0, 256, (count, 28, 28), np.uint8)
    for prefix in ("train", "t10k"):
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
    return images


def test_a_data_set_of_torchvision_in_memory(tmp_path: Path) -> None:
    images = fashion_mnist(tmp_path, 12)
    train, test = evaluation_splits(f"torchvision:FashionMNIST:{tmp_path}")
    assert train.required_labels.tolist() == [*range(10), 0, 1]
    assert train.classes[9] == "Ankle boot"
    assert len(test) == 12
    np.testing.assert_array_equal(train.pixels(7), np.repeat(images[7][..., None], 3, 2))


def test_a_data_set_of_torchvision_in_files(tmp_path: Path) -> None:
    for folder in ("images/wavy", "images/dotted", "labels"):
        (tmp_path / "dtd" / "dtd" / folder).mkdir(parents=True)
    for name in ("wavy/1.jpg", "dotted/1.jpg"):
        (tmp_path / "dtd" / "dtd" / "images" / name).write_bytes(encode(picture(30, 20), "JPEG"))
    (tmp_path / "dtd" / "dtd" / "labels" / "train1.txt").write_text("wavy/1.jpg\ndotted/1.jpg\n")
    dataset = open_dataset(f"torchvision:DTD:{tmp_path}", "train")
    assert (dataset.classes, dataset.required_labels.tolist()) == (["dotted", "wavy"], [1, 0])
    assert dataset.pixels(1).shape == (20, 30, 3)
    (tmp_path / "dtd" / "dtd" / "images" / "wavy" / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="row 0 cannot be read"):
        dataset.image(0)


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        (
            "torchvision:CIFAR10:no/such",
            None,
            r"not whole in no/such .*CIFAR10\('no/such', train=True, download=True\)",
        ),
        ("torchvision:CIFAR10", None, "write torchvision:NAME:ROOT"),
        ("torchvision:ImageNet:x", None, "with NAME one of CIFAR10"),
        ("torchvision:MNIST:x", "val", "has no split 'val'"),
    ],
)
def test_what_torchvision_has_not_is_one_line(source: str, split: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(source, split)


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog", ".hidden", "empty"):
        (tmp_path / name).mkdir()
    for name in ("cat", "dog"):
        (tmp_path / name / "1.jpg").write_bytes(encode(picture(), "JPEG"))
    with pytest.raises(UserError, match=r"empty: a class without images"):
        open_dataset(tmp_path)
    (tmp_path / "empty").rmdir()
    assert open_dataset(tmp_path).classes == ["cat", "dog"]


def test_images_that_would_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    monkeypatch.setattr("os.sysconf", lambda name: 30)
    with pytest.raises(UserError, match=r"x decoded needs .* GB of memory"):
        decoded_once(open_dataset(tmp_path / "x.npy"))
