"""Runs the command line: `tinymem`, or `python -m tinymem`."""

import sys


def main() -> None:
    try:
        from .cli.app import main as run

        run()
    except KeyboardInterrupt:  # before the command line is loaded and handles it
        sys.exit(130)


if __name__ == "__main__":
    main()
