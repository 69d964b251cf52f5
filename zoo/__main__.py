"""Entry point of ``zoo`` and ``python -m zoo``."""

from __future__ import annotations

from zoo.cli.start import start


def main() -> None:
    """Run the command line."""
    start("zoo.cli.main")


if __name__ == "__main__":
    main()
