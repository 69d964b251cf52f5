"""Adds folders of the repository to the wheel (cards, example photographs, the page of a Space), and the README.

A package index shows the README without the repository, so its links and pictures become absolute.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = {
    "model_cards": "zoo/bundled/model_cards",
    "examples/photos": "zoo/bundled/photos",
    "examples/web": "zoo/bundled/web",
}
LEFT_OUT = shutil.ignore_patterns("node_modules", "package-lock.json", "*.onnx")


class BuildWithFolders(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a checkout has them where they are
            for source, target in FOLDERS.items():
                folder = Path(self.build_lib) / target
                shutil.copytree(Path(__file__).parent / source, folder, ignore=LEFT_OUT, dirs_exist_ok=True)


def readme() -> str:
    """Return README.md with absolute links: pictures as files, everything else as pages of the repository."""
    root = Path(__file__).parent
    repository = tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

    def absolute(link: re.Match[str]) -> str:
        place = "raw" if link[1] else "blob"
        return f"{link[1]}[{link[2]}]({repository}/{place}/main/{link[3]})"

    relative = r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)"
    return re.sub(relative, absolute, (root / "README.md").read_text())


setup(
    cmdclass={"build_py": BuildWithFolders},
    long_description=readme(),
    long_description_content_type="text/markdown",
)
