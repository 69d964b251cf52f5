"""Make an environment for each peer of `extraction.py`: their pinned requirements contradict each other.

    python benchmarks/peers.py FOLDER

An environment also sees the packages of the Python that runs this script, after its own. So all peers use the same
torch, and only missing or differently pinned packages are installed. A peer that cannot be installed is reported, and
the benchmark leaves it out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

REQUIREMENTS = {
    "transformers": ["transformers>=5"],
    "img2vec": ["img2vec_pytorch>=1.0.2"],
    "fastembed": ["fastembed>=0.7"],
}


def python_of(folder: Path, peer: str) -> Path:
    """Return the path of the interpreter in a peer's environment."""
    return folder / peer / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def make(folder: Path, peer: str) -> bool:
    """Make the environment of a peer; return whether its packages could be installed."""
    venv.create(folder / peer, with_pip=True)
    python = python_of(folder, peer)
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    (site / "zz-shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[peer]]
    return subprocess.run(command, check=False).returncode == 0


def main() -> None:
    """Make one environment after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    for peer in REQUIREMENTS:
        print(f"{peer}: {'ready' if make(arguments.folder, peer) else 'DOES NOT INSTALL HERE'}", flush=True)


if __name__ == "__main__":
    main()
