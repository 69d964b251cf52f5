"""Adds folders of the repository to the wheel: model cards, example photographs, and the page of a Space."""

from __future__ import annotations

import shutil
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


setup(cmdclass={"build_py": BuildWithFolders})
