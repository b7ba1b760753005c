"""Refreshes tutorials/README.md: what the lessons print, their sentences, and their times."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .lessons import HERE, LESSONS, PICTURES, CourseError, Lesson

PAGE = HERE / "README.md"


def printed(page: str) -> dict[str, str]:
    """The output of each lesson as it appears on the page."""
    return dict(re.findall(r"<!-- (\w+) -->\n```text\n(.*?)```", page, re.DOTALL))


def seconds_shown(page: str) -> dict[str, int]:
    """The seconds of each lesson in the table of the page."""
    found = re.findall(r"^\| \[[^]]+\]\((\w+)\.py\).* (\d+) s \|", page, re.MULTILINE)
    return {stem: int(seconds) for stem, seconds in found}


def run(lesson: Path) -> tuple[str, float]:
    """Runs a lesson as a script. Returns what it prints and the seconds; keeps its picture.

    It runs in a folder of its own that holds a copy of the recorded rows, so that nothing else is
    written into the course.
    """
    settings = {key: value for key, value in os.environ.items() if key != "TINYMEM_FAST"}
    settings["MPLBACKEND"] = "Agg"
    with tempfile.TemporaryDirectory() as folder:
        copy_rows(Path(folder))
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(lesson)],
            **{"cwd": folder, "env": settings, "capture_output": True, "text": True},
            encoding="utf-8",
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CourseError(f"{lesson.stem}: {reason}")
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
    row, part, block = patterns(lesson.path)
    if not re.search(row, page, re.MULTILINE):
        page = with_new_lesson(page, lesson)
    picture = f"![The picture of lesson {lesson.number}](pictures/{lesson.stem}.png)"
    changes = [
        (row, lambda _: table_row(lesson, seconds)),
        (part, lambda m: f"## {lesson.title}\n\n{lesson.sentences}\n\n{m[1] or picture}\n\n"),
        (block, lambda m: f"{m[1]}{output}```"),
    ]
    for pattern, new in changes:
        page, count = re.subn(pattern, new, page, flags=re.MULTILINE)
        if count != 1:
            raise CourseError(f"README.md: expected one part of lesson {lesson.number}")
    return page


def patterns(path: Path) -> tuple[str, str, str]:
    """Where a lesson is in the page: its row in the table, the text above its output, its output.

    The first group of the text is the picture.
    """
    row = rf"^\| \[[^]]+\]\({path.stem}\.py\).*$"
    inside = r"(?:(?!^## |^!\[)[\s\S])*?"  # up to a picture or to the next lesson
    picture = r"(!\[[^]]*\]\(pictures/[^)]*\))?"
    text = rf"^## {int(path.stem[:2])}\. {inside}{picture}{inside}(?=^<!-- {path.stem} -->)"
    return row, text, rf"(^<!-- {path.stem} -->\n```text\n)[\s\S]*?```"


def with_new_lesson(page: str, lesson: Lesson) -> str:
    """The page with an empty row and an empty part, after those of the lesson before."""
    before = Lesson(LESSONS[LESSONS.index(lesson.path) - 1])
    row, _, block = patterns(before.path)
    page = re.sub(row, lambda m: f"{m[0]}\n{table_row(lesson, 0)}", page, flags=re.MULTILINE)
    part = f"\n\n## {lesson.title}\n\n<!-- {lesson.stem} -->\n```text\n```"
    return re.sub(block, lambda m: m[0] + part, page, flags=re.MULTILINE)


def refresh(lesson: Lesson) -> float:
    """Runs the lesson and writes what the page shows of it. Returns the seconds."""
    output, seconds = run(lesson.path)
    page = PAGE.read_text(encoding="utf-8")
    page = with_lesson(page, lesson, output, max(1, round(seconds)))
    PAGE.write_text(page, encoding="utf-8")
    return seconds
