"""Reads the file of a lesson: a percent script whose prose is in `# %% [markdown]` cells."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PICTURES = HERE / "pictures"
LESSONS = sorted(HERE.glob("[0-9][0-9]_*.py"))


class CourseError(Exception):
    """Something is wrong with a lesson, a page or an option. The message is one line."""


@dataclass(frozen=True)
class Lesson:
    """The parts of a lesson that other pages repeat."""

    path: Path

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def number(self) -> int:
        return int(self.stem[:2])

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The Markdown of all prose cells."""
        cells = re.split(r"^# %%", self.text, flags=re.MULTILINE)[1:]
        marked = (cell.split("\n", 1)[1] for cell in cells if cell.startswith(" [markdown]"))
        return re.sub(r"^# ?", "", "\n".join(marked), flags=re.MULTILINE)

    @property
    def title(self) -> str:
        """`5. One half is enough`"""
        return self.find(r"^# (\d+\. [^\n]+)$", "no title such as `# # 5. One half is enough`")

    @property
    def question(self) -> str:
        """The sentence in bold that follows the title."""
        found = self.find(r"^# \d+\. [^\n]+\n+\*\*(.+?)\*\*", "no question in bold below its title")
        return " ".join(found.split())

    @property
    def reads(self) -> list[str]:
        """The files of the library that it explains, such as `tinymem/unit/lora.py`."""
        line = self.find(
            r"\*\*Read afterwards:\*\*(.*?)(?=\n[-*] |\n\n|\Z)", "no line `**Read afterwards:** …`"
        )
        return re.findall(r"tinymem/[\w/]+\.py", line)

    @property
    def practice(self) -> list[str]:
        """The marks of its rungs and exercises: `["rung5", "ex5"]`."""
        marks = re.findall(r"pytest tutorials -m \"?((?:rung|ex)\d+)", self.section("Practice"))
        return list(dict.fromkeys(marks))

    @property
    def sentences(self) -> str:
        """The three sentences at its end."""
        return self.section("In three sentences").strip()

    def section(self, title: str) -> str:
        """The Markdown below `## title`, up to the next heading."""
        return self.find(rf"^## {title}\n(.*?)(?=^## |\Z)", f"no section `## {title}`")

    def find(self, pattern: str, otherwise: str) -> str:
        found = re.search(pattern, self.prose, re.MULTILINE | re.DOTALL)
        if found is None:
            raise CourseError(f"{self.path.name}: {otherwise}")
        return found[1]


def chosen(names: list[str]) -> list[Path]:
    """The lessons with these numbers or names; without any, all of them."""
    known = {key: path for path in LESSONS for key in (path.stem, path.name, path.stem[:2])}
    known |= {str(int(path.stem[:2])): path for path in LESSONS}
    for name in names:
        if name not in known:
            numbers = f"{int(LESSONS[0].stem[:2])} to {int(LESSONS[-1].stem[:2])}"
            raise CourseError(f"no lesson {name}; the lessons are {numbers}")
    return sorted({known[name] for name in names}) or LESSONS
