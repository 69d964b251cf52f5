"""How the processes of the commands end: with the documented exit code, whatever threads libraries leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR

# Arrow reads ahead from a Python file, in a thread of its own, and goes on when the header is refused. The read sleeps
# until the interpreter is gone, as a slow disk may make it.
LEAVE_A_THREAD = """
import io, threading, time
import pyarrow as pa, pyarrow.csv
reading = threading.Event()
class Slow(io.BytesIO):
    def read(self, size=-1):
        if self.tell():
            reading.set()
            time.sleep({seconds})
        return super().read(size)
try:
    options = pyarrow.csv.ConvertOptions(include_columns=["path"])
    data = b"file,label\\n" + b"a.jpg,1\\n" * 400_000
    pyarrow.csv.read_csv(Slow(data), convert_options=options)
except KeyError:
    pass
assert reading.wait(60)
"""
MAIN = """
import atexit, sys, typer
from zoo.cli.app import new_app, run
from zoo.errors import UserError
app = new_app("test")
@app.command()
def go(end: str) -> int:
    {thread}
    atexit.register(print, "the handler of a library ran")
    print("printed", end=" ")
    if end == "user error":
        raise UserError("one line")
    if end == "bug":
        raise ValueError("bug")
    if end == "interrupt":
        raise KeyboardInterrupt
    return int(end)
run(app, "zoo", resume_hint="again")
"""


def end(code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("how", "code", "error"),
    [
        ("user error", EXIT_USER_ERROR, "zoo: error: one line\n"),
        ("interrupt", EXIT_INTERRUPTED, "zoo: interrupted: again\n"),
        ("0", EXIT_OK, ""),
        ("3", 3, ""),
    ],
)
def test_a_thread_of_arrow_does_not_abort_the_process(how: str, code: int, error: str) -> None:
    thread = LEAVE_A_THREAD.format(seconds=0.5).replace("\n", "\n    ")
    done = end(MAIN.format(thread=thread), "go", how)
    assert (done.returncode, done.stderr) == (code, error)
    assert done.stdout == "printed the handler of a library ran\n"


def test_a_bug_still_prints_its_traceback_and_ends_with_1() -> None:
    done = end(MAIN.format(thread="pass"), "go", "bug")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: bug\n")


@pytest.mark.parametrize("module", ["zoo", "training"])
def test_a_stream_that_takes_no_more_is_one_line(module: str) -> None:
    command = {"zoo": "list", "training": "recipes"}[module]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", module, command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr.count("\n") == 1
    assert "cannot print: No space left on device" in done.stderr


def test_names_reach_a_terminal_of_ascii_escaped(tmp_path: Path) -> None:
    """A path of the command line may hold commands to a terminal, and bytes that are no text at all."""
    name = b"a\x1b]0;title\x07\xff\xc3\xa9.csv"
    command = [sys.executable, "-m", "zoo", "verify", name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == EXIT_USER_ERROR
    assert b"a\\x1b]0;title\\x07\\udcff" in done.stderr
    assert done.stderr.isascii()
    assert not set(done.stderr) & set(range(32)) - {10}


INTERRUPTED_IMPORT = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from {package}.__main__ import main
main()
"""


@pytest.mark.parametrize(("package", "module"), [("zoo", "zoo.cli.app"), ("training", "zoo.cli.app")])
def test_ctrl_c_while_a_command_is_imported_prints_no_traceback(package: str, module: str) -> None:
    code = INTERRUPTED_IMPORT.format(package=package, module=module)
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_INTERRUPTED, "", "")
