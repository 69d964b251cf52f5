"""A static Hugging Face Space: the page of ``examples/web`` with a model, for visitors who install nothing.

The Space holds all that the page loads: the ONNX file, and the three files of onnxruntime-web that it runs on. So its
content security policy allows no other host, and the folder works on any static host.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from zoo.errors import UserError
from zoo.hub import hf_upload, npm_package
from zoo.hub.weights import WeightFile
from zoo.publish import destination
from zoo.publish.card.wording import hub_licence
from zoo.publish.publish import locate
from zoo.system.atomic_files import atomic_write_text, copy_file, make_folder
from zoo.system.shipped import shipped_folder

MODEL, CARD, RUNTIME = "model.onnx", "README.md", "ort"
_PAGE = ("index.html", "app.mjs", "style.css")
_RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_INSTALLED = "./node_modules/onnxruntime-web/dist/"  # where the example's page expects them
# Threads of WebAssembly need an isolated page (https://huggingface.co/docs/hub/spaces-config-reference).
_HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}


@dataclass(frozen=True)
class SpaceResult:
    """A Space that was built.

    Attributes:
        where: folder of a dry run, or URL of the Space.
        commit: the live revision; ``None`` for a dry run.
        files: sizes in bytes by name.
        parity: largest relative difference of the ONNX file from torch.
    """

    where: str
    commit: str | None
    files: dict[str, int]
    parity: float


def publish_space(
    model: str | Path,
    space: str,
    *,
    dry_run: Path | None = None,
    private: bool = False,
    web_runtime: Path | None = None,
) -> SpaceResult:
    """Publish a model as the static Space ``space``, or write the Space into the folder ``dry_run``.

    Args:
        model: a name, a folder of ``zoo convert``, or a file of ``zoo-train export``, as for ``zoo.load``.
        space: ``OWNER/NAME``.
        dry_run: a folder that does not exist or is empty; nothing is uploaded.
        private: create a new Space as private.
        web_runtime: folder ``dist`` of onnxruntime-web; ``None`` installs the package with npm.

    Raises:
        UserError: there are no such weights, the ONNX file differs from torch, onnxruntime-web is not there, or the
            upload fails (``zoo.hub.hf_upload.upload``).
    """
    destination.require(space, dry_run)
    file = locate(model)
    if web_runtime is not None:
        _require_runtime(web_runtime)
    if dry_run is None:
        hf_upload.require_upload(space)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "space"
        parity = build(model, file, folder, space, web_runtime)
        files = destination.sizes(folder)
        if dry_run is not None:
            destination.keep(folder, dry_run)
            return SpaceResult(str(dry_run), None, files, parity)
        message = f"{file.name}, by siamese-zoo"
        done = hf_upload.upload(folder, space, message=message, private=private, owned=(), kind="space")
        return SpaceResult(done.url, done.commit, files, parity)


def build(model: str | Path, file: WeightFile, folder: Path, space: str, web_runtime: Path | None = None) -> float:
    """Write all files of the Space into ``folder``; return the ONNX file's largest difference from torch.

    Raises:
        UserError: as ``publish_space``.
    """
    from zoo.export.export import Variant, export_onnx
    from zoo.loading import load

    make_folder(folder)
    _copy_runtime(web_runtime, folder / RUNTIME)
    # the page, which loads its runtime from the Space
    about = f"{file.name} ({file.licence}), as an ONNX file of siamese-zoo."
    changes: dict[str, Callable[[str], str]] = {
        "app.mjs": lambda text: _replaced(text, _INSTALLED, f"./{RUNTIME}/"),
        "index.html": lambda text: _replaced(
            text, '<footer id="about"></footer>', f'<footer id="about">{escape(about)}</footer>'
        ),
    }
    for name in _PAGE:
        text = (shipped_folder("web") / name).read_text(encoding="utf-8")
        atomic_write_text(folder / name, changes.get(name, str)(text))
    # the network
    exported = export_onnx(load(model, device="cpu"), folder / MODEL, Variant("any"))
    atomic_write_text(folder / CARD, card(file, space))
    return exported.parity


def card(file: WeightFile, space: str) -> str:
    """Return the Space's ``README.md``; the keys of its YAML are those of the hub's Spaces configuration reference."""
    # A JSON text is a YAML text: no name can end the quotes.
    facts = {
        "title": space.partition("/")[2],
        "emoji": "🔍",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "static",
        "app_file": "index.html",
        "pinned": False,
        **hub_licence(file.licence),
        "short_description": "Which photographs are alike? In your browser.",
        "custom_headers": _HEADERS,
    }
    front = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in facts.items())
    return (
        f"---\n{front}---\n\n"
        f"# {facts['title']}\n\n"
        "Choose some photographs, and the page shows the most similar pairs. They are embedded in the browser and sent "
        "nowhere: the page's content security policy allows no other host.\n\n"
        f"The network is `{file.name}`, licence {file.licence}. `{MODEL}` takes pixels of any size. "
        f"`{RUNTIME}/` holds three files of [onnxruntime-web](https://www.npmjs.com/package/onnxruntime-web) (MIT, "
        "Microsoft Corporation).\n\n"
        f"Made by `zoo publish {file.name} --space {space}`.\n"
    )


def _copy_runtime(dist: Path | None, to: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if dist is None:
            package_json = shipped_folder("web") / "package.json"
            dist = npm_package.install(package_json, Path(scratch)) / "onnxruntime-web" / "dist"
        _require_runtime(dist)
        make_folder(to)
        for name in _RUNTIME_FILES:
            copy_file(dist / name, to / name)


def _require_runtime(dist: Path) -> None:
    if missing := [name for name in _RUNTIME_FILES if not (dist / name).is_file()]:
        raise UserError(f"{dist} has no {missing[0]}: give the folder `dist` of the npm package onnxruntime-web")


def _replaced(text: str, old: str, new: str) -> str:
    if old not in text:
        raise UserError(f"the page of examples/web was changed and has no {old}: install siamese-zoo again")
    return text.replace(old, new)
