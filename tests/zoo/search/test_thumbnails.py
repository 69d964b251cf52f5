from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from extraction_driver import PixelMeans, run
from made_collection import clusters, make
from pictures import fill

from zoo.errors import UserError
from zoo.search.collection import Collection
from zoo.search.thumbnails import Thumbnails
from zoo.transforms.unreadable import UnreadableImage

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"


def test_only_images_of_the_collection_are_shown(photos_out: Path, tmp_path: Path) -> None:
    collection = Collection(photos_out)
    names = [item.name for item in collection.items(0, 24)]
    images = tmp_path / "images"
    shutil.copytree(PHOTOS, images)
    outside = tmp_path / "outside.jpg"
    shutil.move(images / "rocket.jpg", outside)
    (images / "rocket.jpg").symlink_to(outside)
    (images / "astronaut.jpg").unlink()
    (images / "astronaut.jpg").symlink_to("other.jpg")
    (images / "other.jpg").write_bytes((PHOTOS / "astronaut.jpg").read_bytes())
    shutil.copy(PHOTOS / "rocket.jpg", images / "cat_kitten.jpg")
    thumbnails = Thumbnails(collection, str(images))
    for name, reason in (("rocket.jpg", "no-permission"), ("cat_kitten.jpg", "changed")):
        with pytest.raises(UnreadableImage) as caught:
            thumbnails.small(names.index(name))
        assert caught.value.reason == reason
    assert thumbnails.small(names.index("astronaut.jpg")).startswith(b"\xff\xd8")  # a link inside is fine
    with pytest.raises(IndexError):
        thumbnails.small(24)
    with pytest.raises(UserError, match=r"no folder .*none: give --images what"):
        Thumbnails(collection, str(tmp_path / "none"))


def test_another_folder_than_the_extracted_one_is_noticed(photos_out: Path, tmp_path: Path) -> None:
    collection = Collection(photos_out)
    assert Thumbnails(collection, str(PHOTOS)).problem() is None
    other = fill(tmp_path / "other", 3)
    assert Thumbnails(collection, str(other)).problem() == "astronaut.jpg: no such file"
    for name in ("astronaut.jpg", "bird_kingfisher.jpg", "bird_macaw.jpg"):
        shutil.copy(PHOTOS / "rocket.jpg", other / name)
    assert Thumbnails(collection, str(other)).problem() == "astronaut.jpg: not the image that was extracted"
    shutil.copy(PHOTOS / "bird_macaw.jpg", other)
    assert Thumbnails(collection, str(other)).problem() is None, "a file that has changed is no wrong folder"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no picture")
    run(tmp_path / "broken", tmp_path / "out")
    assert Thumbnails(Collection(tmp_path / "out"), str(tmp_path / "broken")).problem() is None


def test_paths_of_an_altered_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    shutil.copy(PHOTOS / "rocket.jpg", tmp_path / "secret.jpg")  # only its place can be the reason
    paths = [b"../secret.jpg", str(tmp_path / "secret.jpg").encode(), b"a\0b.jpg", b"."]
    thumbnails = Thumbnails(make(tmp_path / "out", clusters(4, 4), paths=paths), str(tmp_path / "images"))
    for row, reason in enumerate(("no-permission", "no-permission", "missing", "not-a-file")):
        with pytest.raises(UnreadableImage) as caught:
            thumbnails.small(row)
        assert caught.value.reason == reason, paths[row]


def test_thumbnails_of_a_tar(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", 4)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(images, ".")
    run(tmp_path / "a.tar", tmp_path / "out", embedder=PixelMeans())
    collection = Collection(tmp_path / "out")
    thumbnails = Thumbnails(collection, str(tmp_path / "a.tar"))
    assert collection.item(0).name.startswith("a.tar/")
    for row in range(len(collection)):
        assert thumbnails.small(row).startswith(b"\xff\xd8")
    (tmp_path / "out" / ".zoo" / "plan.parquet").unlink()
    with pytest.raises(UserError, match="has no plan"):
        Thumbnails(collection, str(tmp_path / "a.tar"))
