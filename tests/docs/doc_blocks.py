"""Command blocks of Markdown pages: found, checked, and run as a reader would run them.

CONTRIBUTING.md documents the markers. A page is run in one temporary folder, block after block, and one Python
namespace; ``page_files`` puts the files there that the page's commands name.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUNNABLE = {"bash", "console", "python"}

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,}) *(?P<language>[\w+-]*)(?P<rest>.*)$")
_MARKER = re.compile(r"^ *<!-- *(?P<kind>not run|run): *(?P<text>.*?) *-->$")
_LOOKS_LIKE_A_MARKER = re.compile(r"^ *<!-- *(not[ -]?run|run)\b", re.IGNORECASE)
_COMMAND = re.compile(r"^ *(\$ |zoo |zoo-train |pip |python3? |torchrun |git clone )")
_STARTS_INDENTED_TEXT = re.compile(r"^( *)([-*+] |\d+[.)] |!!! |\?\?\?\+? |=== )")
_SHELL_SYNTAX = re.compile(r"[|<>;&$`*?{}]")


class BlockError(AssertionError):
    """A block that has no marker, has a wrong one, or does not run; the message names page and line."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and what the marker before it says.

    ``line`` is the fence's, from 1. ``not_run`` is the reason of a ``not run`` marker. ``words`` are the placeholders
    to replace, ``exit`` is the exit code that the block's last command must have.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None = None
    slow: bool = False
    exit: int = 0
    words: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"

    def with_values(self) -> str:
        """The text with the marker's values in the place of its placeholders."""
        text = self.text
        for word, value in self.words.items():
            text, count = re.subn(rf"(?<![\w-]){re.escape(word)}(?![\w-])", lambda _, value=value: value, text)
            if not count:
                raise BlockError(f"{self.where}: the marker replaces {word}, which the block does not have")
        return text


def parse(page: Path) -> list[Block]:
    """The command blocks of ``page``, in order.

    Raises:
        BlockError: a marker without a reason or with an unknown word, a marker before no block, commands in a block
            whose language is none of ``RUNNABLE``, or commands in an indented block.
    """
    lines = page.read_text().splitlines()
    blocks: list[Block] = []
    marker: tuple[int, re.Match[str]] | None = None
    number, owner = 0, ""  # owner: the last line without indentation, which says what indented lines are
    while number < len(lines):
        line = lines[number]
        if fence := _FENCE.match(line):
            end = _closing(lines, number, fence, page)
            body = lines[number + 1 : end]
            text = textwrap.dedent("\n".join(body))
            block = _block(page, number + 1, fence["language"], text, marker)
            if block:
                blocks.append(block)
            marker, number = None, end + 1
            continue
        if _LOOKS_LIKE_A_MARKER.match(line):
            found = _MARKER.match(line)
            if found is None:
                raise BlockError(f"{page}:{number + 1}: a marker is '<!-- not run: REASON -->' or '<!-- run: ... -->'")
            _refuse_unused(page, marker)
            marker = (number + 1, found)
        elif line.strip():
            _refuse_unused(page, marker)
            marker = None
            if line.startswith("    ") and _COMMAND.match(line) and not _STARTS_INDENTED_TEXT.match(owner):
                raise BlockError(f"{page}:{number + 1}: commands in an indented block: write ```bash")
            if not line.startswith(" "):
                owner = line
        number += 1
    _refuse_unused(page, marker)
    return blocks


def _closing(lines: list[str], start: int, fence: re.Match[str], page: Path) -> int:
    for number in range(start + 1, len(lines)):
        stripped = lines[number].strip()
        if stripped.startswith(fence["ticks"]) and set(stripped) == {fence["ticks"][0]}:
            return number
    raise BlockError(f"{page}:{start + 1}: the block has no end")


def _refuse_unused(page: Path, marker: tuple[int, re.Match[str]] | None) -> None:
    if marker:
        raise BlockError(f"{page}:{marker[0]}: no block follows this marker")


def _block(page: Path, line: int, language: str, text: str, marker: tuple[int, re.Match[str]] | None) -> Block | None:
    """None where the block is no command block and has no marker."""
    bare = Block(page, line, language, text)
    if marker is None:
        if language in RUNNABLE:
            return bare
        if any(_COMMAND.match(line) for line in text.splitlines()):
            raise BlockError(f"{bare.where}: commands in a block of '{language}': write ```bash, or a marker")
        return None
    kind, said = marker[1]["kind"], marker[1]["text"]
    if kind == "not run":
        if len(said.split()) < 2:
            raise BlockError(f"{bare.where}: 'not run' needs a reason")
        return Block(page, line, language, text, not_run=said)
    if language not in RUNNABLE:
        raise BlockError(f"{bare.where}: only {', '.join(sorted(RUNNABLE))} can run, not '{language}'")
    if not said:
        raise BlockError(f"{bare.where}: 'run' says nothing: name slow, exit=N or WORD=VALUE, or leave the marker out")
    slow, code, words = False, 0, {}
    for item in shlex.split(said):
        word, equals, value = item.partition("=")
        if item == "slow":
            slow = True
        elif word == "exit" and value.isdigit():
            code = int(value)
        elif equals and word and value:
            words[word] = value
        else:
            raise BlockError(f"{bare.where}: {item!r} is neither slow, exit=N nor WORD=VALUE")
    return Block(page, line, language, text, slow=slow, exit=code, words=words)


# ---------------------------------------------------------------- commands of a block


@dataclass(frozen=True)
class Command:
    """A command of a shell block, and the lines that the page shows as its output (``console`` only)."""

    text: str
    shown: tuple[str, ...] = ()


def commands(block: Block, text: str) -> list[Command]:
    """The commands of ``text``, which is ``block``'s with or without its placeholders replaced."""
    if block.language == "console":
        return list(_console(block, text))
    return [Command(line) for line in _joined(text.splitlines()) if line.strip() and not line.lstrip().startswith("#")]


def _joined(lines: list[str]) -> Iterator[str]:
    """Lines that end in a backslash, or leave a quotation or a here-document open, together with what follows."""
    held: list[str] = []
    until = None
    for line in lines:
        held.append(line)
        if until is not None:
            if line.strip() != until:
                continue
            until = None
        elif document := re.search(r"<<-? *['\"]?(\w+)['\"]?", line):
            until = document[1]
            continue
        whole = "\n".join(held)
        if line.endswith("\\") or _open_quotation(whole):
            continue
        yield whole
        held = []
    if held:
        yield "\n".join(held)


def _open_quotation(text: str) -> bool:
    if "<<" in text:
        return False
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def _console(block: Block, text: str) -> Iterator[Command]:
    command: list[str] = []
    shown: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield Command("\n".join(command), tuple(shown))
            command, shown = [line[2:]], []
        elif not command:
            raise BlockError(f"{block.where}: a console block starts with '$ '")
        elif command[-1].endswith("\\"):
            command.append(line)
        else:
            shown.append(line)
    if command:
        yield Command("\n".join(command), tuple(shown))


# ---------------------------------------------------------------- options that exist


def check_options(block: Block) -> None:
    """Every ``zoo`` or ``zoo-train`` command of a shell block has a subcommand and options that exist.

    This also holds for blocks that are not run.
    """
    if block.language == "python":
        return
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        for name, subcommand, rest in re.findall(r"(?:^|[|&;$(] *)(zoo|zoo-train) +([\w-]+)([^|&;#]*)", line.strip()):
            if subcommand.startswith("-") or subcommand.isupper():
                continue
            known = _options(name)
            if subcommand not in known:
                raise BlockError(f"{block.where}: {name} has no command {subcommand}")
            wrong = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest)) - known[subcommand]
            if wrong:
                raise BlockError(f"{block.where}: {name} {subcommand} has no option {', '.join(sorted(wrong))}")


@cache
def _options(name: str) -> dict[str, set[str]]:
    from typer.main import get_command

    root: Any = get_command(_app(name))
    return {
        command: {o for p in found.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        for command, found in root.commands.items()
    }


def _app(name: str) -> Any:
    if name == "zoo":
        from zoo.cli.main import app
    else:
        from training.cli import app
    return app


# ---------------------------------------------------------------- running


@dataclass
class Page:
    """A page while it is run: its folder, and the names that its Python blocks have defined."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})


def run_page(blocks: list[Block], folder: Path, *, slow: bool) -> int:
    """Runs the blocks of one page in ``folder``, without the slow ones unless ``slow``; returns how many ran.

    Raises:
        BlockError: a block that fails, or output that differs from what the page shows.
    """
    page, count = Page(folder), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "120")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        for block in blocks:
            check_options(block)
            if block.not_run is None and (slow or not block.slow):
                run_block(block, page, patch)
                count += 1
    return count


def run_block(block: Block, page: Page, patch: pytest.MonkeyPatch) -> None:
    """Runs one block and raises ``BlockError`` if it fails."""
    text = block.with_values()
    if block.language == "python":
        _run_python(block, text, page)
        return
    found = commands(block, text)
    for command in found:
        expected = block.exit if command is found[-1] else 0
        code, output = _run_command(command.text, patch)
        if code != expected:
            raise BlockError(f"{block.where}: exit code {code}, not {expected}: {command.text}\n{output[-4000:]}")
        _compare(block, command, output)


def _run_python(block: Block, text: str, page: Page) -> None:
    output = io.StringIO()
    try:
        code = compile("\n" * block.line + text, str(block.page), "exec")
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            exec(code, page.names)
    except Exception as error:
        told = "".join(traceback.format_exception(error))
        raise BlockError(f"{block.where}: {type(error).__name__}: {error}\n{told}{output.getvalue()}") from error


def _run_command(text: str, patch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and all that was printed. Plain ``zoo`` and ``zoo-train`` commands run in this process."""
    text = text.replace("\\\n", " ")
    words = [] if _SHELL_SYNTAX.search(re.sub(r"'[^']*'", "''", text)) else shlex.split(text, comments=True)
    if words[:1] in (["zoo"], ["zoo-train"]):
        return _in_process(words[0], words[1:], patch)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, done.stdout


def _in_process(name: str, arguments: list[str], patch: pytest.MonkeyPatch) -> tuple[int, str]:
    from zoo.cli.app import exit_code

    output = io.StringIO()
    run: Callable[[], int] = lambda: exit_code(_app(name), name, "go on")  # noqa: E731
    with patch.context() as inner, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        inner.setattr(sys, "argv", [name, *arguments])
        inner.setattr(sys, "path", list(sys.path))  # a method of one's own adds a folder
        try:
            code = run()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except Exception as error:
            return 1, output.getvalue() + "".join(traceback.format_exception(error))
    return code, output.getvalue()


def _compare(block: Block, command: Command, output: str) -> None:
    """The lines shown are printed, in this order; ``...`` stands for anything within a line, alone for any lines."""
    printed = [line.rstrip() for line in output.splitlines()]
    place = 0
    for line in command.shown:
        if line.strip() in ("", "..."):
            continue
        pattern = ".*".join(re.escape(part) for part in line.rstrip().split("..."))
        while place < len(printed) and not re.fullmatch(pattern, printed[place]):
            place += 1
        if place == len(printed):
            raise BlockError(f"{block.where}: the output of {command.text!r} has no line {line!r}:\n{output[-4000:]}")
        place += 1
