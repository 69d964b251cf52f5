"""The shell of ``zoo`` and ``zoo-train``: errors are one line, exit codes are documented, SIGTERM acts as Ctrl-C."""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from zoo.cli.guesses import command_meant, option_meant, said_of_option
from zoo.cli.supervised import Ended, in_child_if_limited
from zoo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR, UserError, without_secrets
from zoo.system import verbosity
from zoo.system.atomic_files import FULL
from zoo.system.environment import require_readable_by_the_hub
from zoo.system.shortage import shortage_behind, shortage_of
from zoo.system.terminal import print_line
from zoo.version import __version__

_RESERVE = 8 << 20  # bytes; freed before an error is printed
_MOST_OF_ARGUMENTS = 120  # characters of a message that repeats arguments
_NAMES_A_SHORTAGE = ("memory", "open files", "thread")


class _Interrupted(Exception):
    """Ctrl-C or SIGTERM; typer turns a KeyboardInterrupt into an exit code without a word."""


class _ClosedPipe(Exception):
    """Nobody reads the output any more; typer turns a BrokenPipeError into exit code 1."""


@contextmanager
def _kept_from_typer() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise _Interrupted from error
    except BrokenPipeError as error:
        raise _ClosedPipe from error
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich exits by itself
            raise _ClosedPipe from error
        raise


class _Commands(TyperGroup):
    """The commands of a program: each expands ``~`` and refuses an empty path.

    In ``--out "$OUT"`` with an unset variable the value becomes ``Path("")``, which is the working folder.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _kept_from_typer():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _kept_from_typer():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if ctx.resilient_parsing:  # Tab was pressed: the words are not complete yet
            return super().resolve_command(ctx, args)
        # `zoo help`, `zoo version`, and names that other programs use
        if args[0] not in self.commands:
            if args[0] == "help" and args[1:2] == []:
                print(ctx.get_help())  # noqa: T201  many lines, of our own
                raise typer.Exit
            if args[0] == "help":
                args = [args[1], "--help"]
            elif args[0] == "version":
                print_line(f"siamese-zoo {__version__}")
                raise typer.Exit
            elif meant := command_meant(args[0], self.commands):
                ctx.fail(f"No such command {args[0]!r}. Did you mean {meant!r}?")
        name, command, rest = super().resolve_command(ctx, args)
        rest = [_home_expanded(word) for word in rest]
        if command is not None:
            given, _, _ = command.make_parser(typer.Context(command, info_name=name, parent=ctx)).parse_args(list(rest))
            hints = get_type_hints(command.callback)
            for parameter in command.params:
                hint, value = hints.get(parameter.name), given.get(parameter.name)
                if Path in (hint, *get_args(hint)) and "" in (value if isinstance(value, list | tuple) else [value]):
                    raise UserError(f"{parameter.opts[0]} is empty: give a path; the folder you are in is '.'")
        return name, command, rest


def _home_expanded(word: str) -> str:
    """Expand ``~/photos`` and ``--images=~/photos``, which a shell leaves alone in quotes and after an equals sign."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{os.path.expanduser(value)}" if value == "~" or value.startswith(("~/", "~\\")) else word


def _versions() -> str:
    found = [f"siamese-zoo {__version__}", f"python {platform.python_version()} on {platform.platform()}"]
    for package in ("torch", "timm", "onnxruntime", "onnxruntime-gpu", "pyarrow", "pillow", "numpy"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def new_app(text: str, begin: str = "") -> typer.Typer:
    """Create a typer application with plain output and ``--version``.

    Args:
        text: its help.
        begin: the line below its commands, which tells a new user what to run first.
    """
    app = typer.Typer(
        cls=_Commands,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True, help=text, epilog=begin)
    def without_command(
        context: typer.Context,
        show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        if show_version:
            print_line(f"siamese-zoo {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())  # noqa: T201  many lines, of our own

    return app


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors, failures and results; no progress, no notes.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print versions first, and errors with their traceback.")
]


def add_verbosity(app: typer.Typer) -> None:
    """Give every command of a complete application the options ``--quiet`` and ``--verbose``."""
    groups = [group.typer_instance for group in app.registered_groups]
    for commands in (app, *(group for group in groups if group is not None)):
        for command in commands.registered_commands:
            assert command.callback is not None
            command.callback = _with_verbosity(command.callback)


def _with_verbosity(function: Callable[..., Any]) -> Callable[..., Any]:
    hints = get_type_hints(function, include_extras=True)
    switches = {"quiet": Quiet, "verbose": Verbose}

    @wraps(function)
    def command(*, quiet: bool, verbose: bool, **given: object) -> Any:
        verbosity.set_level(1 if verbose else -1 if quiet else 0)
        if verbose:
            print_line(_versions(), file=sys.stderr, flush=True)
        return function(**given)

    # Typer reads the options off the signature.
    options = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(function).parameters.items()
    ]
    options += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=hint)
        for name, hint in switches.items()
    ]
    vars(command)["__signature__"] = inspect.Signature(options)
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def run(app: typer.Typer, name: str, *, resume_hint: str) -> NoReturn:
    """Run ``app`` on the arguments of this process and exit with a code of ``zoo.errors``.

    Args:
        name: the command's name, before each error.
        resume_hint: how to continue, printed after an interruption.
    """
    again = f"{shortage_of(MemoryError())}\n"
    native = f"{name}: error: under the limit of addresses (`ulimit -v`) a library ended the process, {again}".encode()
    end = _EndOfProcess(in_child_if_limited(native, EXIT_USER_ERROR))
    reserve = [bytearray(_RESERVE)]  # of addresses: nothing is written there
    atexit.register(end.leave)  # first of all, because what is registered first runs last
    line = f"{name}: interrupted: {resume_hint}\n".encode()

    def interrupt(*_: object) -> NoReturn:
        # Whoever stops a machine may send SIGTERM twice: the second must not interrupt what the first has begun.
        signal.signal(signal.SIGTERM, nothing)  # not SIG_IGN: Python tells of one that is pending at this moment
        signal.signal(signal.SIGINT, leave)
        raise KeyboardInterrupt

    def nothing(*_: object) -> None:
        pass

    def leave(*_: object) -> NoReturn:
        # Whoever presses Ctrl-C again does not want to wait; what is finished is on the disk, as after a kill.
        with suppress(OSError):
            os.write(2, line)
        end.end_now(EXIT_INTERRUPTED)

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a job in the background ignores it
        signal.signal(signal.SIGINT, interrupt)
    # Give printing a stream even where the process has none.
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # a daemon may start its children with closed streams
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115  for the life of the process
        getattr(sys, stream).reconfigure(errors="backslashreplace")  # a terminal of ASCII shows any name
    short = f"{name}: error: {again}".encode()
    try:
        end.code = exit_code(app, name, resume_hint, reserve)
    except KeyboardInterrupt:  # a second one, while the first is printed
        end.code = EXIT_INTERRUPTED
    except MemoryError:  # too little is left to print
        with suppress(OSError):
            os.write(2, short)
        end.end_now(EXIT_USER_ERROR)
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

    def __init__(self, ended: Ended) -> None:
        self.code = 1
        self._ended = ended
        self._process = os.getpid()

    def leave(self) -> None:
        """Flush what was printed or logged, and end the process; a child that was forked from it ends as it likes."""
        if os.getpid() != self._process:
            return
        for flush in (logging.shutdown, *(s.flush for s in (sys.stdout, sys.stderr) if s is not None)):
            with suppress(OSError, ValueError):  # nobody reads it any more, or the stream is closed
                flush()
        self.end_now(self.code)

    def end_now(self, code: int) -> NoReturn:
        """End the process without flushing."""
        self._ended.tell()
        os._exit(code)


def exit_code(app: typer.Typer, name: str, resume_hint: str, reserve: list[bytearray] | None = None) -> int:
    """Run ``app`` as ``run`` does, print its error if there is one, and return the exit code.

    Args:
        reserve: memory to give back before an error is handled, so that it can be printed.
    """
    verbosity.set_level(0)
    try:
        require_readable_by_the_hub()
        result = app(standalone_mode=False, prog_name=name)
        # Flush here, where a broken pipe can still be handled.
        sys.stdout.flush()
        return result if isinstance(result, int) else EXIT_OK
    except SystemExit as error:  # how typer ends --show-completion, and the answer to a Tab
        return error.code if isinstance(error.code, int) else EXIT_OK
    except UserError as error:
        (reserve or []).clear()
        return _fail(f"{name}: error: {_with_shortage(error)}", error)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = name if context is None else context.command_path
        return _fail(f"{name}: error: {_sentence(_with_guess(error))} See `{command} --help`.", error)
    except (KeyboardInterrupt, _Interrupted, typer.Abort) as error:
        _print_traceback(error)
        with suppress(OSError):
            print_line(f"{name}: interrupted: {resume_hint}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (BrokenPipeError, _ClosedPipe):  # `zoo list | head`
        _silence_stdout()
        return EXIT_OK
    except Exception as error:  # a library that is short of memory raises nearly anything
        (reserve or []).clear()
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            _silence_stdout()  # `zoo list > /mnt/full/list.txt`
            reason = f"cannot print: {error.strerror}; free space and run the same command again"
            return _fail(f"{name}: error: {reason}", error)
        if (short := shortage_behind(error)) is None:
            if isinstance(error, OSError) and error.filename is not None and error.strerror:
                reason = f"cannot use {os.fsdecode(error.filename)} ({error.strerror}): allow it, or give another path"
                return _fail(f"{name}: error: {reason}", error)
            raise
        return _fail(f"{name}: error: {short}", error)


def _with_shortage(error: UserError) -> str:
    """Return the error's message; first of all the shortage behind it, if it does not name that itself."""
    text, short = str(error), shortage_behind(error)
    if short is None or any(word in text for word in _NAMES_A_SHORTAGE):
        return text
    return f"{short} (it was met as: {text})"


def _with_guess(error: TyperException) -> str:
    """Return the message of an error, with the option that is meant by an unknown one, and what a missing one is."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if error.format_message().startswith("Got unexpected extra argument"):
        return _too_many(error.format_message(), context)
    # Explain a missing option with its help text, unless the message lists its choices already.
    message = error.format_message()
    about = getattr(getattr(error, "param", None), "help", None)
    if message.startswith("Missing ") and about and "Choose" not in message:
        return f"{message.rstrip('. ')}: {about}"
    if option is None or not hasattr(error, "possibilities") or context is None:
        return message
    there = {name for parameter in context.command.params for name in parameter.opts}
    if meant := option_meant(option, there):
        return f"{error.message}. Did you mean {meant}?"
    if said := said_of_option(option):
        return f"{error.message} ({said})"
    return message


def _too_many(message: str, context: Any) -> str:
    """Return typer's message about arguments too many, cut off; a shell makes thousands of them from a glob."""
    takes_images = any(parameter.metavar == "IMAGES" for parameter in context.command.params)
    quote = ". IMAGES is one source: quote a glob ('photos/*.jpg'), or write the paths into a list.txt"
    shown = message if len(message) <= _MOST_OF_ARGUMENTS else f"{message[:_MOST_OF_ARGUMENTS]} ...)"
    return shown.rstrip(".") + (quote if takes_images else "") + "."


def _sentence(message: str) -> str:
    """Return a message of typer with a full stop, and without what pydantic writes before ours."""
    message = message.replace(": Value error, ", ": ").strip()
    return message if message.endswith((".", "?", ")")) else f"{message}."


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


def _fail(message: str, error: BaseException) -> int:
    _print_traceback(error)
    # The error may quote a file's name or contents, which must not reach the terminal as commands to it.
    with suppress(OSError):  # nobody listens; the exit code still tells
        print_line(" ".join(message.split()), file=sys.stderr, flush=True)
    return EXIT_USER_ERROR


def _print_traceback(error: BaseException) -> None:
    if verbosity.is_verbose():
        text = without_secrets("".join(traceback.format_exception(error)))
        print(text, end="", file=sys.stderr)  # noqa: T201  many lines
