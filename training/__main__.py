"""Entry point of ``zoo-train`` and ``python -m training``."""

from __future__ import annotations

from zoo.cli.start import start


def main() -> None:
    """Run the command line."""
    start("training.cli")


if __name__ == "__main__":
    main()
