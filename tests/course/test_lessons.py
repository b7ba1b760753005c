"""Every lesson runs, its claims hold, it has the common form, and the page shows its output."""

import ast
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

matplotlib.use("Agg")
COURSE = Path(__file__).parents[2] / "tutorials"
PAGE = (COURSE / "README.md").read_text(encoding="utf-8")
STEADY = (1, 2, 8, 9)  # train nothing, so numbers and pictures are the same on every machine
SECTIONS = ["Idea", "Shapes", "Code", "Run", "What you should see", "Exercise"]
FIELDS = ["You need", "You will see", "Explains", "Time"]

page = SimpleNamespace(**runpy.run_path(str(COURSE / "build.py")))
LESSONS = page.LESSONS
each = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def number(lesson: Path) -> int:
    return int(lesson.stem[:2])


def words(text: str) -> set[tuple[str, ...]]:
    """The words of each line. Unlike the numbers, they do not depend on the number of steps."""
    lines = re.sub("[nN]one", "", text).splitlines()
    return {tuple(re.findall(r"[^\W\d_]{2,}", line)) for line in lines}


def numbers(text: str) -> list[float]:
    found = re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", text)
    return [float(n.replace(",", "")) for n in found]


def coarse(picture: np.ndarray) -> np.ndarray:
    """The mean of each 8 × 8 block, because fonts differ slightly between machines."""
    height, width = (size // 8 * 8 for size in picture.shape[:2])
    blocks = picture[:height, :width, :3].reshape(height // 8, 8, width // 8, 8, 3)
    return blocks.mean((1, 3))


@each
def test_a_lesson_runs_and_the_page_shows_what_it_prints(lesson, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TINYMEM_FAST", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(lesson)])
    runpy.run_path(str(lesson), run_name="__main__")  # its assertions are the test
    matplotlib.pyplot.close("all")
    said, shown = capfd.readouterr().out, page.printed(PAGE)[lesson.stem]
    assert words(said) == words(shown)
    fresh, kept = (imread(folder / f"{lesson.stem}.png") for folder in (tmp_path, page.PICTURES))
    assert fresh.shape == kept.shape
    if number(lesson) in STEADY:
        assert numbers(said) == pytest.approx(numbers(shown), rel=0.02, abs=0.02)
        assert np.abs(coarse(fresh) - coarse(kept)).mean() < 0.02


@each
def test_a_lesson_has_the_form(lesson):
    text, n = lesson.read_text(encoding="utf-8"), number(lesson)
    docstring = ast.get_docstring(ast.parse(text))
    title = docstring.splitlines()[0]
    assert title.startswith(f"Lesson {n}. ")
    assert [line[:15].strip() for line in docstring.splitlines()[2:] if line[0] != " "] == FIELDS
    wanted = SECTIONS if n else SECTIONS[:-1]  # lesson 0 has no exercise
    sections = [line.partition(":")[0] for line in re.findall(r"^# %% (.*)$", text, re.MULTILINE)]
    places = [sections.index(section) for section in wanted]
    assert places == sorted(places) and sections[0] == wanted[0] and sections[-1] == wanted[-1]
    assert n == 0 or f"pytest tutorials -m ex{n}\n" in text
    explained = re.findall(r"tinymem/[\w/]+\.py", docstring)  # lesson 0 explains the paper
    assert (n == 0 or explained) and all((COURSE.parent / name).is_file() for name in explained)
    assert len(text.splitlines()) <= (160 if n else 235)
    assert text.count("\nassert ") + text.count("    assert ") >= 3
    (row,) = (line for line in PAGE.splitlines() if line.startswith("|") and lesson.name in line)
    assert f"[{title.removeprefix('Lesson ')}]({lesson.name})" in row
    assert all(f"{Path(name).name}`" in row for name in explained)
    assert f"](pictures/{lesson.stem}.png)" in PAGE


@each
def test_no_lesson_imports_another(lesson):
    tree = ast.parse(lesson.read_text(encoding="utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imports = (n for n in ast.walk(tree) if isinstance(n, ast.Import))
    modules |= {alias.name for node in imports for alias in node.names}
    assert {name.partition(".")[0] for name in modules} <= {
        *sys.stdlib_module_names, "matplotlib", "numpy", "safetensors", "tinymem", "torch"
    }  # fmt: skip


def test_every_picture_belongs_to_a_lesson():
    assert {path.stem for path in page.PICTURES.glob("*")} == {lesson.stem for lesson in LESSONS}
