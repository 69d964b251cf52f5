"""The shell of ``zoo`` and ``zoo-train``: errors are one line, exit codes are documented, SIGTERM acts as Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from zoo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR, UserError
from zoo.system.shortage import shortage_of
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
            print(f"siamese-zoo {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())

    return app


def run(app: typer.Typer, name: str, *, resume_hint: str) -> NoReturn:
    """Run ``app`` on the arguments of this process and exit with a code of ``zoo.errors``.

    Args:
        name: the command's name, before each error.
        resume_hint: how to continue, printed after an interruption.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    # Give printing a stream even where the process has none.
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # a daemon may start its children with closed streams
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115  for the life of the process
    sys.exit(exit_code(app, name, resume_hint))


def exit_code(app: typer.Typer, name: str, resume_hint: str) -> int:
    """Run ``app`` as ``run`` does, print its error if there is one, and return the exit code."""
    try:
        result = app(standalone_mode=False)
        # Flush here, where a broken pipe can still be handled.
        sys.stdout.flush()
        return result if isinstance(result, int) else EXIT_OK
    except UserError as error:
        return _fail(f"{name}: error: {error}")
    except TyperException as error:
        return _fail(f"{name}: error: {error.format_message()} See `{name} --help`.")
    except (KeyboardInterrupt, typer.Abort):
        print(f"{name}: interrupted: {resume_hint}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `zoo list | head`
        # Silence the flush at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        if (short := shortage_of(error)) is None:
            raise
        return _fail(f"{name}: error: {short}")


def parse_assignments(texts: list[str]) -> dict[str, str]:
    """Parse ``["epochs=2"]`` to ``{"epochs": "2"}``. UserError: an equals sign is missing."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes option=value, not {text!r}")
        pairs[name] = value
    return pairs


def _fail(message: str) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return EXIT_USER_ERROR


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
