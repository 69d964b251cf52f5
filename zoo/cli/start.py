"""Start a command: import it, then run it."""

from __future__ import annotations

import sys
from importlib import import_module

from zoo.errors import EXIT_INTERRUPTED


def start(module: str) -> None:
    """Run ``main`` of a module. Ctrl-C while it is imported ends with the same code as later, without a traceback."""
    try:
        main = import_module(module).main
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    main()
