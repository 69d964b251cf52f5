"""What the site takes from the repository when it is built, so that it cannot be stale.

- ``reference/cli.md`` is written from the ``zoo`` and ``zoo-train`` applications.
- ``<!-- folders: zoo -->`` in a page becomes a table of the package's folders and the first sentence of each.
- ``<!-- torch.hub entries -->`` becomes the signature and docstring of the entries in ``hubconf.py``.
- A link to a file outside ``docs`` (a picture of ``examples``, a model card, a JSON file) is followed: the file goes
  into the site below ``repository/``. In the repository the same link works as it is.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTSIDE = "repository/"
_LINK = re.compile(r"(?P<before>\]\(|src=\"|href=\")(?P<target>(?![a-z]+:|/|#)[^)\s#\"]+)")
_FENCED = re.compile(r"^ *(`{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)

sys.path.insert(0, str(ROOT))  # the repository's own code, whatever is installed


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the command reference and every file of the repository that a page links to."""
    files.append(File.generated(config, "reference/cli.md", content=command_reference()))
    waiting = sorted(DOCS.rglob("*.md"))
    known: set[Path] = set()
    while waiting:
        page = waiting.pop()
        for target in _links(page):
            if target in known or target.is_relative_to(DOCS):
                continue
            known.add(target)
            uri = OUTSIDE + target.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(target)))
            if target.suffix == ".md":
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what is generated, and points links to files of the repository at their copies."""
    markdown = re.sub(r"<!-- folders: (\w+) -->", lambda found: folder_table(found[1]), markdown)
    markdown = markdown.replace("<!-- torch.hub entries -->", hub_entries())
    origin = _origin(page.file.src_uri)

    def moved(found: re.Match[str]) -> str:
        target = _resolve(origin, found["target"])
        if target is None or (target.is_relative_to(DOCS) and origin.is_relative_to(DOCS)):
            return found[0]
        uri = (
            target.relative_to(DOCS).as_posix()
            if target.is_relative_to(DOCS)
            else (OUTSIDE + target.relative_to(ROOT).as_posix())
        )
        return found["before"] + Path(os.path.relpath(uri, Path(page.file.src_uri).parent)).as_posix()

    return _outside_fences(markdown, lambda text: _LINK.sub(moved, text))


def _origin(src_uri: str) -> Path:
    return ROOT / src_uri.removeprefix(OUTSIDE) if src_uri.startswith(OUTSIDE) else DOCS / src_uri


def _links(page: Path) -> list[Path]:
    """Files of the repository that ``page`` links to."""
    text = _FENCED.sub("", page.read_text())
    found = (_resolve(page, match["target"]) for match in _LINK.finditer(text))
    return [target for target in found if target is not None]


def _resolve(page: Path, link: str) -> Path | None:
    """The file of the repository that a link of ``page`` means; a folder's README for a folder."""
    target = Path(os.path.normpath(page.parent / link))
    if target.is_dir() and (target / "README.md").is_file():
        target /= "README.md"
    return target if target.is_file() and target.is_relative_to(ROOT) else None


def _outside_fences(markdown: str, change: Any) -> str:
    done, place = [], 0
    for fence in _FENCED.finditer(markdown):
        done += [change(markdown[place : fence.start()]), fence[0]]
        place = fence.end()
    return "".join([*done, change(markdown[place:])])


# ---------------------------------------------------------------- generated parts


def command_reference() -> str:
    """Every command of ``zoo`` and ``zoo-train`` with its arguments and options."""
    from training.cli import app as train
    from zoo.cli.main import app as zoo

    return "\n".join(
        [
            "# Commands",
            "",
            "This page is made from the programs when the site is built; `COMMAND --help` prints the same.",
            "",
            *_application("zoo", zoo),
            *_application("zoo-train", train),
        ]
    )


def _application(name: str, app: Any) -> list[str]:
    from typer import Context
    from typer.main import get_command

    root: Any = get_command(app)
    lines = [f"## {name}", "", _prose(root.help), ""]
    for command in root.commands.values():
        context = Context(command, info_name=f"{name} {command.name}")
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [f"### {name} {command.name}", "", _prose(command.help), ""]
        lines += ["```text", f"{name} {command.name} {usage}", "```", ""]
        lines += _parameters(command, context)
    return lines


def _parameters(command: Any, context: Any) -> list[str]:
    """One table of arguments and options; required ones first."""
    rows = []
    for parameter in sorted(command.get_params(context), key=lambda p: not p.required):
        if parameter.name == "help":
            continue
        found = parameter.get_help_record(context)
        name, text = found or (parameter.metavar or parameter.name, parameter.help or "")
        rows.append(f"| <code>{_escaped(name)}</code> | {_cell(text)} |")
    return ["| argument or option | meaning |", "|---|---|", *rows, ""] if rows else []


def _prose(text: str | None) -> str:
    """A docstring's paragraphs; code in single backticks, as Markdown has it."""
    return (
        inspect.cleandoc(text or "").replace("``", "`").replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n")
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")


def _cell(text: str) -> str:
    """Text for a table's cell: outside code, ``<``, ``|`` and ``*`` stand for themselves."""
    parts = " ".join(text.split()).split("`")
    for number, part in enumerate(parts):
        parts[number] = part.replace("|", "\\|") if number % 2 else re.sub(r"([*_\[\]{}])", r"\\\1", _escaped(part))
    return "`".join(parts)


FOLDERS = {  # lowest first: the order in which imports may point
    "zoo": "system numerics transforms sources datasets models convert hub inference export embeddings extraction "
    "evaluate publish report search cli",
    "training": "recipes distributed methods data monitoring engine planning results ablations sweeps",
}


def folder_table(package: str) -> str:
    """The folders of ``package``, lowest first, and the sentence that opens each one's ``__init__.py``."""
    rows = ["| folder | what it is for, and what it may touch |", "|---|---|"]
    for name in FOLDERS[package].split():
        for init in sorted((ROOT / package / name).rglob("__init__.py"), key=lambda path: path.parent):
            text = ast.get_docstring(ast.parse(init.read_text())) or ""
            sentence = text.partition("\n\n")[0].replace("``", "`")
            rows.append(f"| `{init.parent.relative_to(ROOT).as_posix()}/` | {_cell(sentence)} |")
    return "\n".join(rows)


def hub_entries() -> str:
    """Signature and docstring of an entry of ``hubconf.py``, and the names of all."""
    import hubconf
    from zoo.models.registry import MODELS

    first = next(iter(MODELS))
    entry = getattr(hubconf, first)
    names = ", ".join(f"`{name}`" for name in MODELS)
    return "\n".join(
        [
            f"Entries: {names}.",
            "",
            "All have the signature and the arguments of this one:",
            "",
            "```text",
            f"{first}{inspect.signature(entry)}",
            "",
            inspect.cleandoc(entry.__doc__),
            "```",
        ]
    )
