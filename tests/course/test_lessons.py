"""Every lesson runs, has the form of a lesson, and claims only numbers that it prints."""

import ast
import importlib.util
import itertools
import re
import runpy
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

matplotlib.use("Agg")
COURSE = Path(__file__).parents[2] / "tutorials"
IDEAS = COURSE / "pictures" / "ideas"
README = (COURSE / "README.md").read_text(encoding="utf-8")
STEADY = (1, 2, 8, 9)  # train nothing, so numbers and pictures are the same on every machine
PRACTICE = {1: "rung1", 2: "ex2", 3: "rung2", 4: "rung3 rung4", 5: "rung5 ex5", 6: "rung6"}
PRACTICE |= {7: "rung7 ex7", 8: "rung8", 9: "ex9", 10: "rung6 rung9", 11: "ex11", 12: "ex12"}
END = ["In three sentences", "The paper's claim", "Practice", "Further reading"]
# Links that do not move. Others are added here when a lesson needs them.
SOURCES = (
    r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", r"https://doi\.org/10\.\d{4,}/\S+",
    r"https://(docs\.pytorch\.org|docs\.python\.org|numpy\.org|huggingface\.co/docs)/\S+",
    r"https://(aclanthology|jmlr|proceedings\.mlr|papers\.nips|openreview|distill)\.\w+/\S+",
)  # fmt: skip

build = runpy.run_path(str(COURSE / "build.py"))
LESSONS, Lesson, printed = build["LESSONS"], build["Lesson"], build["printed"]
each = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


# --- It runs --------------------------------------------------------------------------------


def words(text: str) -> set[tuple[str, ...]]:
    """The words of each line. Unlike the numbers, they do not depend on the number of steps.

    The line of lesson 1 about this machine is left out.
    """
    lines = re.sub("[nN]one|^Python .*", "", text).splitlines()
    return {tuple(re.findall(r"[^\W\d_]{2,}", line)) for line in lines}


def numbers(text: str) -> list[str]:
    """`1,024 of −3.50` -> ["1024", "3.50"]; none of GPT-2, x2 or ½."""
    found = re.findall(r"(?<![\w.])(?<!\w-)\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", text)
    return [number.rstrip(",").replace(",", "") for number in found]


def coarse(picture: np.ndarray) -> np.ndarray:
    """The mean of each 8 × 8 block, because fonts differ slightly between machines."""
    height, width = (size // 8 * 8 for size in picture.shape[:2])
    blocks = picture[:height, :width, :3].reshape(height // 8, 8, width // 8, 8, 3)
    return blocks.mean((1, 3))


@each
def test_a_lesson_runs_and_the_page_shows_what_it_prints(path, tmp_path, monkeypatch, capfd):
    importlib.import_module("pages.readme").copy_rows(tmp_path)
    monkeypatch.setenv("TINYMEM_FAST", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")  # its assertions are the test
    matplotlib.pyplot.close("all")
    said, shown = capfd.readouterr().out, printed(README)[path.stem]
    assert words(said) == words(shown)
    fresh, kept = (imread(f / f"{path.stem}.png") for f in (tmp_path, COURSE / "pictures"))
    assert fresh.shape == kept.shape
    if int(path.stem[:2]) in STEADY:
        said, shown = (re.sub("^Python .*", "", text) for text in (said, shown))
        assert list(map(float, numbers(said))) == pytest.approx(
            list(map(float, numbers(shown))), rel=0.02, abs=0.02
        )
        assert np.abs(coarse(fresh) - coarse(kept)).mean() < 0.02


# --- Its form -------------------------------------------------------------------------------


def sentences(text: str) -> int:
    return len(re.findall(r"[.?!](?=\s|$)", text))


def code_of(text: str) -> str:
    """The code cells of a lesson."""
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    return "\n".join(cell for cell in cells if not cell.startswith(" [markdown]"))


@each
def test_a_lesson_begins_with_a_question_and_a_picture(path):
    lesson = Lesson(path)
    first = lesson.text.split("# %%")[1]
    assert lesson.text.startswith("# %% [markdown]\n# # ")
    title, question, picture, idea, *_ = re.sub(r"^# ?", "", first, flags=re.M).split("\n\n")
    title = title.removeprefix(" [markdown]\n")
    assert title == f"# {lesson.title}" and lesson.number == int(lesson.title.partition(".")[0])
    assert re.fullmatch(r"\*\*[^*]+\?\*\*", question), "a question in bold follows the title"
    shown = re.fullmatch(r"!\[([^]]+)\]\(pictures/ideas/(\d\d)\.svg\)", picture)
    assert shown and shown[2] == path.stem[:2] and len(shown[1].split()) >= 4
    assert 2 <= sentences(idea) <= 5, "two to four sentences on the idea of the picture"
    fields = re.findall(r"^# - \*\*(.+?):\*\*", first, re.MULTILINE)
    assert fields == ["You need", "Time", "Read afterwards"]
    assert lesson.number == 0 or lesson.reads  # lesson 0 is about the paper
    assert all((COURSE.parent / name).is_file() for name in lesson.reads)


@each
def test_a_lesson_has_its_parts_in_order(path):
    lesson = Lesson(path)
    headings = re.findall(r"^## (.+)$", lesson.prose, re.MULTILINE)
    assert headings[: headings.index("Idea")] == ["Is everything ready?"] * (lesson.number == 1)
    assert headings.index("Shapes") == headings.index("Idea") + 1
    assert headings[-5:] == ["What you should see", *END]
    assert len(set(headings)) == len(headings)
    assert "|---" in lesson.section("Shapes")
    assert sentences(lesson.section("In three sentences")) == 3
    cells = re.findall(r"^# %%(.*)$", lesson.text, re.MULTILINE)
    assert set(cells) <= {"", " [markdown]"}
    assert all(first or then for first, then in itertools.pairwise(cells)), "code without prose"
    figure = lesson.text.index(f'savefig("{path.stem}.png"')
    assert figure < lesson.text.index("# ## What you should see")


@each
def test_a_lesson_gives_the_commands_of_its_practice(path):
    lesson = Lesson(path)
    wanted, practice = PRACTICE.get(lesson.number, "").split(), lesson.section("Practice")
    assert lesson.practice == wanted
    hints = re.findall(r"^python tutorials/hint\.py (\w+)", practice, re.MULTILINE)
    assert hints == wanted
    names = set(re.findall(r"`(\w+)`", practice))
    assert names <= {name for mark in wanted for name in functions_of(mark)}


def functions_of(mark: str) -> set[str]:
    """ "rung2" -> {"LoRA", "attach", "detach"}: what a student writes there."""
    kind, number = re.fullmatch(r"(rung|ex)(\d+)", mark).groups()
    file, word = {"rung": ("mymem.py", "Rung"), "ex": ("exercises.py", "Exercise")}[kind]
    text = (COURSE / file).read_text(encoding="utf-8")
    return set(re.findall(rf'NotImplementedError\("{word} {number}: (\w+)', text))


@pytest.mark.parametrize("mark", sorted({m for marks in PRACTICE.values() for m in marks.split()}))
def test_the_practice_names_every_function_that_is_to_be_written(mark):
    practices = [
        Lesson(path).section("Practice") for path in LESSONS if mark in Lesson(path).practice
    ]
    named = set(re.findall(r"`(\w+)`", "\n".join(practices)))
    assert practices and functions_of(mark) <= named


@each
def test_the_links_of_a_lesson_are_well_formed(path):
    lesson = Lesson(path)
    links = re.findall(r"\]\(([^)\s]+)\)", lesson.prose)
    away = [link for link in links if "://" in link]
    assert all(any(re.fullmatch(source, link) for source in SOURCES) for link in away), away
    here = [link.partition("#")[0] for link in links if link not in away]
    missing = [link for link in here if not (COURSE / link).exists()]
    assert not missing
    reading = re.findall(r"^- \[", lesson.section("Further reading"), re.MULTILINE)
    assert 2 <= len(reading) <= 5
    rows = claims(lesson)
    assert rows and all(len(row) == 3 for row in rows)
    for _, where, _ in rows:
        files = re.findall(r"(?:tinymem|tutorials)/[\w/]+\.py", where)
        assert files and all((COURSE.parent / name).is_file() for name in files), where


@each
def test_a_lesson_is_short_and_plain(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= (245 if int(path.stem[:2]) else 290)
    long = [line for line in lines if len(line) > 100 and not line.startswith(("# |", "# !["))]
    assert not long, "only tables and pictures may be wider than 100 columns"
    assert "__file__" not in text
    assert len(re.findall(r"^ *assert ", text, re.MULTILINE)) >= 3
    assert f"[{Lesson(path).title}]({path.name})" in README
    assert f"](pictures/{path.stem}.png)" in README


@each
def test_no_lesson_imports_another(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imports = (n for n in ast.walk(tree) if isinstance(n, ast.Import))
    modules |= {alias.name for node in imports for alias in node.names}
    assert {name.partition(".")[0] for name in modules} <= {
        *sys.stdlib_module_names, "matplotlib", "numpy", "safetensors", "tinymem", "torch"
    }  # fmt: skip


def test_every_picture_belongs_to_a_lesson():
    pictures = {path.name for path in (COURSE / "pictures").iterdir()}
    assert pictures == {f"{path.stem}.png" for path in LESSONS} | {"ideas"}
    numbers_of = {path.stem[:2] for path in LESSONS}
    assert {path.stem for path in IDEAS.iterdir()} == numbers_of
    assert {path.suffix for path in IDEAS.iterdir()} == {".svg"}


@pytest.mark.parametrize("path", sorted(IDEAS.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_of_an_idea_is_readable_on_light_and_dark_pages(path):
    text = path.read_text(encoding="utf-8")
    assert "<title>" in text and "viewBox" in text and len(text.splitlines()) <= 70
    assert re.search(r'<rect [^>]*rx="\d+"[^>]*fill="(#fff|#ffffff|white)"', text)
    families = re.findall(r"font-family[=:]\s*\"?([^\";]+)", text)
    assert families and all("sans-serif" in family for family in families)
    assert "href" not in text and "<script" not in text  # a page cannot load what it refers to


# --- What it needs ----------------------------------------------------------------------------


def first_cell(path: Path) -> str:
    return code_of(path.read_text(encoding="utf-8")).split("import math")[0]


WRONG = {
    "another project": "/elsewhere/tinymem is another project named tinymem; pip uninstall tinymem",
    "no torch": "this Python has no torch; in the folder above tutorials/, run: pip install -e",
    "old Python": "the course needs 3.10 or newer",
    "elsewhere": "has no tutorials/; start from the folder that contains it",
}


@pytest.mark.parametrize("what", WRONG)
def test_the_first_lesson_says_in_one_line_what_is_missing(what, tmp_path, monkeypatch):
    wrong = ModuleSpec("tinymem", None, origin="/elsewhere/tinymem/__init__.py")
    wrong.submodule_search_locations = ["/elsewhere/tinymem"]
    specs = {"another project": {"tinymem": wrong}, "no torch": {"torch": None}}.get(what, {})
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: specs[n] if n in specs else find(n))
    if what == "old Python":
        monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.chdir(tmp_path if what == "elsewhere" else COURSE)
    with pytest.raises(SystemExit, match="^error: .*" + re.escape(WRONG[what])) as stopped:
        exec(first_cell(LESSONS[1]), {})
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("folder", [COURSE, COURSE.parent], ids=lambda folder: folder.name)
def test_the_first_lesson_starts_in_either_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(first_cell(LESSONS[1]), {})


# --- Its numbers ----------------------------------------------------------------------------


def claims(lesson) -> list[list[str]]:
    """The rows of the table of the paper's claims: claim, place, our number."""
    table = [line for line in lesson.section("The paper's claim").splitlines() if "|" in line]
    assert table[0].rstrip(" |").endswith("our number")
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table[2:]]


def measured(text: str) -> list[str]:
    """The numbers of a text that it claims to have measured.

    Mathematics, code, links and the numbers of lessons and equations are no measurements.
    """
    text = re.sub(r"\$[^$]*\$|`[^`]*`|\]\([^)]*\)", " ", text)
    named = r"(?:[Ll]essons?|[Rr]ungs?|[Ee]xercises?|Eq\.|Table|Section|arXiv) \d[\d.]*"
    return numbers(re.sub(rf"{named}(?:(?:,| to| and) \d+)*", " ", text))


def unfounded(lesson, output: str) -> list[str]:
    """Numbers that the lesson claims and does not print; what it shows may be in its code."""
    out = {float(number) for number in numbers(output)}
    tree = ast.walk(ast.parse(code_of(lesson.text)))
    constants = {n.value for n in tree if isinstance(n, ast.Constant)}
    constants = {float(value) for value in constants if type(value) in (int, float)}
    ours = measured(" ; ".join(row[2] for row in claims(lesson)))
    seen = measured(lesson.section("What you should see"))
    wrong = [number for number in ours if float(number) not in out]
    return wrong + [number for number in seen if float(number) not in out | constants]


def edited(path: Path, text: str):
    """The lesson with another text."""
    lesson = Lesson(path)
    lesson.__dict__["text"] = text
    return lesson


@each
def test_a_lesson_prints_the_numbers_that_it_claims(path):
    output = printed(README)[path.stem]
    assert unfounded(Lesson(path), output) == []


@each
def test_a_wrong_number_is_found(path):
    """Each number, one after the other, is replaced by one that the lesson does not print."""
    lesson, output = Lesson(path), printed(README)[path.stem]
    planted = 0
    for title in ("What you should see", "The paper's claim"):
        start = lesson.text.index(f"# ## {title}\n")
        stop = lesson.text.find("\n# ## ", start + 5)
        for place in re.finditer(r"\d+(?=[^\d]|$)", lesson.text[start:stop]):
            end = start + place.end()
            wrong = edited(path, f"{lesson.text[:end]}987654{lesson.text[end:]}")
            if title == END[1]:
                same = [row[2] for row in claims(wrong)] == [row[2] for row in claims(lesson)]
            else:
                same = measured(wrong.section(title)) == measured(lesson.section(title))
            planted += not same
            assert same or unfounded(wrong, output), f"{place[0]} could be wrong unseen"
    assert planted >= 3
