"""Make a folder of look-alikes: square crops of photographs, half of them mirrored, brighter or darker.

    python examples/crops.py --images examples/photos --out crops

Each photograph gives eight PHOTO-N.jpg. The same seed gives the same pixels: a small collection in which it is known
what is alike, made of photographs whose licences allow it (`examples/photos/LICENSES.md`). `zoo demo`
makes the same ones.
"""

import argparse
from pathlib import Path

from zoo.cli.demo_crops import write_crops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--images", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    photographs = sorted(p for p in arguments.images.iterdir() if p.suffix in (".jpg", ".jpeg", ".png"))
    write_crops(photographs, arguments.out, seed=arguments.seed)
    print(arguments.out)


if __name__ == "__main__":
    main()
