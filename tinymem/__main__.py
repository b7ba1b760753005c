"""Runs the command line: `python -m tinymem`."""

from .cli.app import main

if __name__ == "__main__":
    main()
