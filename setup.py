"""Adds two folders of the repository to the wheel: the model cards, and the example photographs of ``zoo demo``."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = {"model_cards": "zoo/bundled/model_cards", "examples/photos": "zoo/bundled/photos"}


class BuildWithFolders(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a checkout has them where they are
            for source, target in FOLDERS.items():
                shutil.copytree(Path(__file__).parent / source, Path(self.build_lib) / target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithFolders})
