"""The course's page: what it repeats is what the lessons, the checks and the records say."""

import ast
import re
from collections import Counter
from pathlib import Path

import build
import pytest
from checks.points import RUNGS
from pages import readme

TUTORIALS = Path(__file__).parents[2] / "tutorials"
PAGE = (TUTORIALS / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
TERMS = """
base model; token; memory; length; LoRA; rank; memory unit; site; logit; softmax; nat; base loss;
final loss; loss reduction; entropy; teacher forcing; greedy decoding; certified token; certificate;
stubborn token; recall; verbatim; margin; recited; readout temperature; sft; MemFT; sweep; cell;
saturated cell; the law; bootstrap; load; recall curve; stored bits; memorized bits; rung
"""


def table(section: str) -> list[list[str]]:
    """The cells of the rows of the first table of a section, without its head."""
    rows = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


# --- Lessons --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", build.LESSONS, ids=lambda path: path.stem)
def test_the_page_repeats_what_the_lesson_says(path):
    lesson, shown = build.Lesson(path), build.printed(PAGE)[path.stem]
    seconds = readme.seconds_shown(PAGE)[path.stem]
    assert readme.with_lesson(PAGE, lesson, shown, seconds) == PAGE
    assert 1 <= seconds < 60
    changed = PAGE.replace(lesson.sentences, "Something else.")
    assert readme.with_lesson(changed, lesson, shown, seconds) == PAGE
    assert PAGE.count(lesson.sentences) == 1
    (alt,) = re.findall(rf"^!\[(.+?)\]\(pictures/{path.stem}\.png\)$", PAGE, re.MULTILINE)
    assert len(alt.split()) >= 4 and not alt.startswith("The picture of lesson")


def test_a_new_lesson_gets_its_row_and_its_part():
    lesson = build.Lesson(build.LESSONS[5])
    row, *_ = readme.patterns(lesson.path)
    page = re.sub(row + r"\n", "", PAGE, flags=re.MULTILINE)
    page = re.sub(r"^## 5\. .*?(?=^## 6\. )", "", page, flags=re.MULTILINE | re.DOTALL)
    again = readme.with_lesson(page, lesson, "It prints this.\n", 7)
    assert build.printed(again)[lesson.stem] == "It prints this.\n"
    assert readme.seconds_shown(again)[lesson.stem] == 7
    assert list(build.printed(again)) == list(build.printed(PAGE))


def test_refreshing_the_page_runs_the_lesson_and_keeps_its_picture(tmp_path, monkeypatch):
    lesson = tmp_path / build.LESSONS[9].name
    text = build.LESSONS[9].read_text(encoding="utf-8")
    prose = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    code = f"print('hello')\nopen('{lesson.stem}.png', 'wb').write(b'drawn')\n"
    lesson.write_text(f"{prose}\n# %%\n{code}", encoding="utf-8")
    page = tmp_path / "README.md"
    page.write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(readme, "PAGE", page)
    monkeypatch.setattr(readme, "PICTURES", tmp_path)
    monkeypatch.setattr(readme, "copy_rows", lambda folder: None)
    readme.refresh(build.Lesson(lesson))
    new = page.read_text(encoding="utf-8")
    assert build.printed(new) == {**build.printed(PAGE), lesson.stem: "hello\n"}
    assert readme.seconds_shown(new)[lesson.stem] == 1
    assert (tmp_path / f"{lesson.stem}.png").read_bytes() == b"drawn"
    lesson.write_text(f"{prose}\n# %%\nraise ValueError('no')\n", encoding="utf-8")
    with pytest.raises(build.CourseError, match=f"^{lesson.stem}: ValueError: no$"):
        readme.refresh(build.Lesson(lesson))
    assert page.read_text(encoding="utf-8") == new


# --- The ladder -----------------------------------------------------------------------------------


def points_of_rungs() -> dict[int, int]:
    """The sum of the points of the checks of each rung, read from their source."""
    found: Counter = Counter()
    for path in (TUTORIALS / "checks").glob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_rung"):
                calls = [d for d in node.decorator_list if isinstance(d, ast.Call)]
                given = [d.args[0].value for d in calls if ast.unparse(d.func) == "points"]
                assert "parametrize" not in ast.unparse(node).partition("def ")[0]
                found[int(node.name[9])] += given[0] if given else 1
    return dict(found)


def test_the_table_of_the_ladder_is_true():
    rows = {int(rung): (lessons, int(points)) for rung, _, lessons, points in table("The ladder")}
    assert list(rows) == list(RUNGS)
    assert {rung: points for rung, (_, points) in rows.items()} == points_of_rungs()
    source = (TUTORIALS / "mymem.py").read_text(encoding="utf-8")
    where = dict(re.findall(r"^# --- Rung (\d): .*? \(lessons? (.*?)\) -", source, re.MULTILINE))
    for rung, (lessons, _) in rows.items():
        assert re.findall(r"\[(\d+)\]", lessons) == re.findall(r"\d+", where[str(rung)])


def test_the_drawing_of_the_ladder_has_every_rung_and_names_what_it_stands_on():
    drawing = (TUTORIALS / "pages" / "ladder.svg").read_text(encoding="utf-8")
    labels = re.findall(r"<text [^>]*>(\d) ", drawing)
    assert sorted(map(int, labels)) == list(RUNGS)
    (alt,) = re.findall(r"!\[([^]]*)\]\(pages/ladder\.svg\)", PAGE)
    named = re.findall(r"([\d, and]+) on ([\d, and]+)", alt.replace("\n", " "))
    drawn = {upper for uppers, _ in named for upper in re.findall(r"\d", uppers)}
    assert drawn == {"3", "4", "5", "6", "7", "8", "9"}
    count = sum(len(re.findall(r"\d", a)) * len(re.findall(r"\d", b)) for a, b in named)
    assert drawing.count("<path ") - 1 == count == 10  # one path is the tip of the arrows


# --- The map of the paper -------------------------------------------------------------------------

MAP = "The map of the paper"


def wrong_rows(page: str, right: str) -> list[int]:
    """The rows of the map that are not as they are computed from the records."""
    rows = [line for line in page.splitlines() if line.startswith("|")]
    computed = [line for line in right.splitlines() if line.startswith("|")]
    assert len(rows) == len(computed)
    return [n for n, pair in enumerate(zip(rows, computed, strict=True)) if pair[0] != pair[1]]


def test_the_map_is_computed_and_a_wrong_number_in_any_row_is_found(monkeypatch):
    monkeypatch.syspath_prepend(TUTORIALS / "reproduction")
    import paper

    assert paper.with_map(PAGE) == PAGE and "nan" not in SECTIONS[MAP]
    right = paper.filled("map.template.md")
    template = (TUTORIALS / "reproduction" / "map.template.md").read_text(encoding="utf-8")
    for number, line in enumerate(right.splitlines()[2:], start=2):
        assert "{" in template.splitlines()[number].rpartition(" | ")[2]  # our number is computed
        start = line.rindex(" | ", 0, line.rindex(" |")) + 3
        for digit in re.finditer(r"\d", line[start:]):
            at = start + digit.start()
            planted = line[:at] + str((int(digit[0]) + 1) % 10) + line[at + 1 :]
            assert wrong_rows(right.replace(line, planted), right) == [number]
        assert re.search(r"\d", line[start:])


def test_the_numbers_of_the_paper_are_those_of_the_page_about_it():
    known = (TUTORIALS / "reproduction" / "paper.template.md").read_text(encoding="utf-8")
    for part, where, lessons, files, _, number, _ in table(MAP):
        measured = re.findall(r"\d+\.\d+|\d+e-\d|\d{2,}", number.replace(",", " "))
        missing = [value for value in measured if value not in known.replace(",", " ")]
        assert not missing, f"{part}: {missing}"
        assert where and (lessons == "none" or re.search(r"\]\(\d\d_\w+\.py\)", lessons)), part
        for name in re.findall(r"`([\w/]+\.py)`", files):
            assert (TUTORIALS.parent / "tinymem" / name).is_file(), name


# --- The rest -------------------------------------------------------------------------------------


def test_the_glossary_has_every_term_once():
    terms = [term.strip() for term in TERMS.replace("\n", " ").split(";")]
    names = [name for row in table("Glossary") for name in re.split(", ", row[0])]
    plain = [re.sub(r" (ℓ|r|L₀|L|ΔL|H)$", "", name) for name in names]
    assert sorted(set(terms) - set(plain)) == []
    assert len(set(plain)) == len(plain)
    assert all(len(row) == 2 and len(row[1]) > 5 for row in table("Glossary"))


def test_links_lead_somewhere_and_nobody_is_told_to_install_the_other_project():
    anchors = {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in SECTIONS}
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGE):
        name, _, anchor = link.partition("#")
        assert "://" in link or not name or (TUTORIALS / name).exists(), link
        assert name or anchor in anchors, link
    told = re.findall(r"[^.]*pip install tinymem[^.]*\.", PAGE)
    assert len(told) == 1 and "Never" in told[0]
