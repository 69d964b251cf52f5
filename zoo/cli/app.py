"""The shell of ``zoo`` and ``zoo-train``: errors are one line, exit codes are documented, SIGTERM acts as Ctrl-C."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from zoo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR, UserError
from zoo.system.atomic_files import FULL
from zoo.system.terminal import print_line
from zoo.version import __version__


class _NoEmptyPaths(TyperGroup):
    """Refuses an empty path in any command.

    In ``--out "$OUT"`` with an unset variable the value becomes ``Path("")``, which is the working folder.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            given, _, _ = command.make_parser(typer.Context(command, parent=ctx)).parse_args(list(rest))
            hints = get_type_hints(command.callback)
            for parameter in command.params:
                hint, value = hints.get(parameter.name), given.get(parameter.name)
                if Path in (hint, *get_args(hint)) and "" in (value if isinstance(value, list | tuple) else [value]):
                    raise UserError(f"{parameter.opts[0]} is empty: give a path; the folder you are in is '.'")
        return name, command, rest


def new_app(text: str) -> typer.Typer:
    """Create a typer application with plain output and ``--version``; ``text`` is its help."""
    app = typer.Typer(cls=_NoEmptyPaths, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

    @app.callback(invoke_without_command=True, help=text)
    def without_command(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        if version:
            print_line(f"siamese-zoo {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())  # noqa: T201  many lines, of our own

    return app


def run(app: typer.Typer, name: str, *, resume_hint: str) -> NoReturn:
    """Run ``app`` on the arguments of this process and exit with a code of ``zoo.errors``.

    Args:
        name: the command's name, before each error.
        resume_hint: how to continue, printed after an interruption.
    """
    end = _EndOfProcess()
    atexit.register(end.leave)  # first of all, because what is registered first runs last
    signal.signal(signal.SIGTERM, _interrupt)
    # Give printing a stream even where the process has none.
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # a daemon may start its children with closed streams
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115  for the life of the process
        getattr(sys, stream).reconfigure(errors="backslashreplace")  # a terminal of ASCII shows any name
    try:
        end.code = exit_code(app, name, resume_hint)
    except KeyboardInterrupt:  # a second one, while the first is printed
        end.code = EXIT_INTERRUPTED
    sys.exit(end.code)


class _EndOfProcess:
    """Ends the process without taking the interpreter down.

    Threads of Arrow, ONNX Runtime and torch that a command leaves behind, after an error most of all, may still call
    into Python: ``pyarrow.csv`` reads ahead from a Python file and does not stop when it raises. Once the interpreter
    is finalizing, CPython ends such a thread by ``pthread_exit``, which unwinds through C++ that must not throw, and
    the process aborts: exit code 134 instead of 2, now and then. Nobody can wait for all threads of all libraries. So
    the process leaves here: Python has joined its own threads by then, and the handlers that libraries registered
    (Ray, multiprocessing, temporary folders) have run, for those registered last run first.

    Attributes:
        code: exit code; that of a traceback until the command has one.
    """

    def __init__(self) -> None:
        self.code = 1
        self._process = os.getpid()

    def leave(self) -> None:
        """Flush what was printed or logged, and end the process; a child that was forked from it ends as it likes."""
        if os.getpid() != self._process:
            return
        for flush in (logging.shutdown, *(s.flush for s in (sys.stdout, sys.stderr) if s is not None)):
            with suppress(OSError, ValueError):  # nobody reads it any more, or the stream is closed
                flush()
        os._exit(self.code)


def exit_code(app: typer.Typer, name: str, resume_hint: str) -> int:
    """Run ``app`` as ``run`` does, print its error if there is one, and return the exit code."""
    try:
        result = app(standalone_mode=False)
        # Flush here, where a broken pipe can still be handled.
        sys.stdout.flush()
        if result == EXIT_INTERRUPTED:  # typer's for Ctrl-C, of which it prints nothing
            raise KeyboardInterrupt
        return result if isinstance(result, int) else EXIT_OK
    except UserError as error:
        return _fail(f"{name}: error: {error}")
    except TyperException as error:
        return _fail(f"{name}: error: {error.format_message()} See `{name} --help`.")
    except (KeyboardInterrupt, typer.Abort):
        print_line(f"{name}: interrupted: {resume_hint}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (BrokenPipeError, SystemExit):  # `zoo list | head`; of a broken pipe typer makes an exit
        _silence_stdout()
        return EXIT_OK
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        _silence_stdout()  # `zoo list > /mnt/full/list.txt`
        return _fail(f"{name}: error: cannot print: {error.strerror}; free space and run the same command again")


def parse_assignments(texts: list[str]) -> dict[str, str]:
    """Parse ``["epochs=2"]`` to ``{"epochs": "2"}``. UserError: an equals sign is missing."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes option=value, not {text!r}")
        pairs[name] = value
    return pairs


def _silence_stdout() -> None:
    """Send what is left in the buffer nowhere: the flush at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    # The error may quote a file's name or contents, which must not reach the terminal as commands to it.
    with suppress(OSError):  # nobody listens; the exit code still tells
        print_line(" ".join(message.split()), file=sys.stderr, flush=True)
    return EXIT_USER_ERROR


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
