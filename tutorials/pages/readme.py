"""Refreshes tutorials/README.md: what the lessons print, their sentences, and their times."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .lessons import HERE, PICTURES, CourseError, Lesson

PAGE = HERE / "README.md"


def printed(page: str) -> dict[str, str]:
    """The output of each lesson as it appears on the page."""
    return dict(re.findall(r"<!-- (\w+) -->\n```text\n(.*?)```", page, re.DOTALL))


def seconds_shown(page: str) -> dict[str, int]:
    """The seconds of each lesson in the table of the page."""
    found = re.findall(r"^\| \[[^]]+\]\((\w+)\.py\).* (\d+) s \|", page, re.MULTILINE)
    return {stem: int(seconds) for stem, seconds in found}


def run(lesson: Path, fast: bool) -> tuple[str, float]:
    """Runs a lesson as a script. Returns what it prints and the seconds; keeps its picture.

    It runs in a folder of its own that holds a copy of the recorded rows, so that nothing else is
    written into the course.
    """
    settings = {key: value for key, value in os.environ.items() if key != "TINYMEM_FAST"}
    settings |= {"MPLBACKEND": "Agg"} | ({"TINYMEM_FAST": "1"} if fast else {})
    with tempfile.TemporaryDirectory() as folder:
        copy_rows(Path(folder))
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(lesson)],
            **{"cwd": folder, "env": settings, "stdout": subprocess.PIPE, "text": True},
            encoding="utf-8",
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise CourseError(f"{lesson.stem}: failed; its own message is above")
        picture = Path(folder, f"{lesson.stem}.png")
        if picture.is_file():
            shutil.copy(picture, PICTURES)
    return done.stdout, seconds


def copy_rows(folder: Path) -> None:
    """Copies the recorded rows to where a lesson looks for them."""
    shutil.copytree(
        HERE / "reproduction" / "rows", folder / "reproduction" / "rows", dirs_exist_ok=True
    )


def practice(marks: list[str]) -> str:
    """`["rung5", "ex5"]` -> `rung 5, exercise 5`"""
    words = (mark.replace("rung", "rung ").replace("ex", "exercise ") for mark in marks)
    return ", ".join(words) or "–"


def table_row(lesson: Lesson, seconds: int) -> str:
    reads = ", ".join(f"`{name.removeprefix('tinymem/')}`" for name in lesson.reads)
    cells = [f"[{lesson.title}]({lesson.path.name})", lesson.question, reads or "–"]
    return f"| {' | '.join([*cells, f'{seconds} s', practice(lesson.practice)])} |"


def with_lesson(page: str, lesson: Lesson, output: str, seconds: int) -> str:
    """The page with the row of the lesson in the table, its three sentences and its output."""
    row = rf"^\| \[[^]]+\]\({lesson.stem}\.py\)[^\n]*$"
    part = rf"^(## {lesson.number}\. ).*?^(!\[.*?\]\(pictures/.*?\))$.*?(?=^<!-- {lesson.stem} -->)"
    block = rf"(<!-- {lesson.stem} -->\n```text\n).*?```"
    changes = [
        (row, lambda _: table_row(lesson, seconds)),
        (part, lambda m: f"## {lesson.title}\n\n{lesson.sentences}\n\n{m[2]}\n\n"),
        (block, lambda m: f"{m[1]}{output}```"),
    ]
    for pattern, new in changes:
        page, count = re.subn(pattern, new, page, flags=re.MULTILINE | re.DOTALL)
        if pattern == row:
            continue
        if count != 1:
            raise CourseError(f"README.md: lesson {lesson.number} should have one part of its own")
    return page


def refresh(lesson: Lesson, fast: bool) -> float:
    """Runs the lesson and writes what the page shows of it. Returns the seconds."""
    output, seconds = run(lesson.path, fast)
    page = PAGE.read_text(encoding="utf-8")
    page = with_lesson(page, lesson, output, max(1, round(seconds)))
    PAGE.write_text(page, encoding="utf-8")
    return seconds
