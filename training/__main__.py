"""Entry point of ``zoo-train`` and ``python -m training``."""

from __future__ import annotations

import sys

from zoo.errors import EXIT_INTERRUPTED


def main() -> None:
    """Run the command; Ctrl-C while it is imported ends with its code, as later on, and without a traceback."""
    try:
        from training.cli import main as command
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    command()


if __name__ == "__main__":
    main()
