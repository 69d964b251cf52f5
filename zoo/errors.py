"""The one kind of failure a user can act on, and the exit codes the commands promise."""

EXIT_OK = 0
EXIT_USER_ERROR = 2  # the command, its input or the machine (a full disk) must change first
EXIT_SOME_FAILED = 3  # the run is complete, some images could not be read
EXIT_INTERRUPTED = 130  # Ctrl-C or SIGTERM; run the same command again to go on


class UserError(Exception):
    """Something the user can put right; the message is one line that says what to do.

    Commands print it after ``error:`` and leave with ``EXIT_USER_ERROR``; nothing already written is lost.
    """


def reason_of(error: BaseException, most: int = 200) -> str:
    """The first line of another library's message, or the kind of error where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
