"""Updates the page of the course: runs all lessons, saves their pictures, inserts their output.

python tutorials/page.py        about three minutes on two cores
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
LESSONS = sorted(HERE.glob("[0-9][0-9]_*.py"))


def run(lesson: Path, folder: Path) -> str:
    """Runs a lesson in `folder`, where it saves its picture, and returns what it prints.

    Raises CalledProcessError if an assertion of the lesson fails.
    """
    command = [sys.executable, str(lesson)]
    return subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True
    ).stdout


def printed(page: str) -> dict[str, str]:
    """The output of each lesson as it appears on the page."""
    return dict(re.findall(r"<!-- (\w+) -->\n```text\n(.*?)```", page, re.DOTALL))


def main() -> None:
    path = HERE / "README.md"
    page = path.read_text(encoding="utf-8")
    for lesson in LESSONS:
        print(lesson.name, file=sys.stderr)
        before = f"<!-- {lesson.stem} -->\n```text\n"
        start = page.index(before) + len(before)
        page = page[:start] + run(lesson, PICTURES) + page[page.index("```", start) :]
        path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
