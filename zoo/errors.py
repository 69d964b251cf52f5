"""The one kind of failure a user can act on, and the exit codes the commands promise."""

import re

EXIT_OK = 0
EXIT_USER_ERROR = 2  # the command, its input or the machine (a full disk) must change first
EXIT_SOME_FAILED = 3  # the run is complete, some images could not be read
EXIT_INTERRUPTED = 130  # Ctrl-C or SIGTERM; run the same command again to go on

_VARYING = re.compile(r"0x[0-9a-fA-F]{6,}|\w+://[^\s'\"]+")


class UserError(Exception):
    """Something the user can put right; the message is one line that says what to do.

    Commands print it after ``error:`` and leave with ``EXIT_USER_ERROR``; nothing already written is lost.
    """


def reason_of(error: BaseException, most: int = 200) -> str:
    """Return the first line of another library's message, or the class name of an error without a message.

    Memory addresses and URLs are replaced by dots and control characters by spaces, so that the same failure gives
    the same text in every run and on every machine.

    Args:
        most: maximum number of characters.
    """
    line = (str(error).strip().splitlines() or [""])[0]
    line = _VARYING.sub("...", line)
    return ("".join(c if c.isprintable() else " " for c in line) or type(error).__name__)[:most]
