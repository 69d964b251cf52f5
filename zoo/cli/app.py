"""What ``zoo`` and ``zoo-train`` share: one line for an error, documented exit codes, SIGTERM as Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from zoo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR, UserError
from zoo.version import __version__


class _Commands(TyperGroup):
    """Refuses an empty path of any command: ``--out "$OUT"`` without an OUT is ``Path("")``, the working folder."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
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
    """A typer application with plain output: errors are lines, not boxes."""
    app = typer.Typer(cls=_Commands, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

    @app.callback(invoke_without_command=True, help=text)
    def without_command(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    ) -> None:
        if version:
            print(f"siamese-zoo {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())

    return app


def run(app: Callable[..., Any], name: str, *, go_on: str) -> NoReturn:
    """Runs ``app`` on the process's arguments and exits with a code of ``zoo.errors``.

    ``go_on`` says how to continue after an interruption.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed, as some daemons start their children
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115  for the life of the process
    sys.exit(exit_code(app, name, go_on))


def exit_code(app: Callable[..., Any], name: str, go_on: str) -> int:
    """What ``run`` exits with; the error, if any, is printed."""
    try:
        result = app(standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else EXIT_OK
    except UserError as error:
        return _fail(f"{name}: error: {error}")
    except TyperException as error:
        return _fail(f"{name}: error: {error.format_message()} See `{name} --help`.")
    except (KeyboardInterrupt, typer.Abort):
        print(f"{name}: interrupted: {go_on}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def assignments(texts: list[str]) -> dict[str, str]:
    """``["epochs=2"]`` as ``{"epochs": "2"}``. UserError: one without an equals sign."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes option=value, not {text!r}")
        pairs[name] = value
    return pairs


def _fail(line: str) -> int:
    print(" ".join(line.split()), file=sys.stderr)
    return EXIT_USER_ERROR


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
