"""SimSiam on any torch Dataset: python examples/train_simsiam.py PHOTOS OUT [EPOCHS]"""

import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

import training
from training.results.export import export


class Photos(Dataset):
    """The photographs of a folder, whole and untransformed: the recipe makes two views of each."""

    def __init__(self, folder: str) -> None:
        self.paths = sorted(Path(folder).glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        with Image.open(self.paths[index]) as image:
            return image.convert("RGB")


def main(photos: str, out: str, epochs: str = "10") -> None:
    data = Photos(photos)
    recipe = training.find_recipe("simsiam_r18_tin32")
    optim = replace(recipe.optim, epochs=int(epochs), batch_size=min(64, len(data)))
    training.train(replace(recipe, optim=optim), data, Path(out))
    encoder = Path(out, "encoder.safetensors")
    export(Path(out), encoder)
    print(f"zoo extract --model {encoder} --images {photos} --out embeddings --backend torch")


if __name__ == "__main__":
    main(*sys.argv[1:])
