"""Builds the course from its sources: notebooks, a web site, and what README.md shows.

    python tutorials/build.py --out nb --notebooks --no-run
                                                       only the notebooks, without outputs
    python tutorials/build.py --out site               a site, and executed notebooks in it
    python tutorials/build.py --out site --fast        the same with smaller runs
    python tutorials/build.py --out site 5 8           runs only these lessons again
    python tutorials/build.py --out site --no-run      without the outputs of the code
    python tutorials/build.py --readme                 runs the lessons as scripts, and refreshes
                                                       what README.md shows, and the pictures

A notebook that somebody has edited is kept.

Notebooks and pages need the extra `course`: pip install -e ".[course]". Reading and running a
lesson does not.
"""

import argparse
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for pages/, also when another file runs this one

from pages.lessons import LESSONS, PICTURES, CourseError, Lesson, chosen  # noqa: E402, F401
from pages.readme import printed, refresh  # noqa: E402, F401

NEEDS = 'the extra `course` is missing ({}): pip install -e ".[course]"'


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "build.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("lessons", nargs="*", help="the numbers of the lessons to run; without any, all")
    add("--out", type=Path, help="the folder to write to")
    add("--fast", action="store_true", help="smaller runs (TINYMEM_FAST=1)")
    add("--no-run", action="store_true", help="run nothing")
    add("--notebooks", action="store_true", help="make notebooks, but no pages")
    add("--readme", action="store_true", help="refresh tutorials/README.md instead")
    return made


def check(wanted: argparse.Namespace) -> None:
    """Raises CourseError for options that do not go together."""
    if wanted.readme and (wanted.out or wanted.fast or wanted.no_run or wanted.notebooks):
        raise CourseError("--readme goes with no other option")
    if not wanted.readme and wanted.out is None:
        raise CourseError("choose a folder with --out, or --readme")
    if wanted.out and wanted.out.resolve() in (HERE.resolve(), HERE.resolve().parent):
        raise CourseError(f"--out {wanted.out}: the folder of the sources; choose another one")


def refresh_readme(lessons: list[Path]) -> None:
    """Runs the lessons one after the other, since they measure their time."""
    for path in lessons:
        print(path.name, end=" ", file=sys.stderr, flush=True)
        print(f"{refresh(Lesson(path)):.0f} s", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    wanted = parser().parse_args(arguments)
    start = time.perf_counter()
    try:
        check(wanted)
        lessons = chosen(wanted.lessons)
        if wanted.readme:
            refresh_readme(lessons)
            return
        try:
            from pages.build import build
        except ModuleNotFoundError as error:
            raise CourseError(NEEDS.format(error.name)) from error
        build(wanted.out, lessons, wanted.fast, not wanted.no_run, not wanted.notebooks)
        print(f"{wanted.out} is ready after {time.perf_counter() - start:.0f} s", file=sys.stderr)
    except (CourseError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        os._exit(130)  # without waiting for lessons that run; their processes end by themselves


if __name__ == "__main__":
    main()
