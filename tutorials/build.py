"""Builds the course from its sources: notebooks, a web site, and what README.md shows.

python tutorials/build.py --readme     runs all lessons; refreshes README.md and the pictures
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # pages, also when another file runs this one

from pages.lessons import LESSONS, PICTURES, CourseError, Lesson, chosen  # noqa: F401
from pages.readme import printed, refresh  # noqa: F401


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="build.py", description=__doc__.splitlines()[0])
    add = made.add_argument
    add("lessons", nargs="*", help="numbers of lessons; without any, all lessons")
    add("--readme", action="store_true", help="run lessons and refresh tutorials/README.md")
    return made


def main() -> None:
    wanted = parser().parse_args()
    try:
        for path in chosen(wanted.lessons):
            print(path.name, end=" ", file=sys.stderr, flush=True)
            print(f"{refresh(Lesson(path), fast=False):.0f} s", file=sys.stderr)
    except (CourseError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
