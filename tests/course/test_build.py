"""Notebooks and the site of the course: what is in them, and what Chromium makes of them."""

import ast
import importlib
import json
import re
import shutil
import sys
from contextlib import contextmanager
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.show.browser import CONTRAST, overflow

for name in ("jupytext", "nbclient", "ipykernel", "markdown_it", "mdit_py_plugins", "latex2mathml"):
    pytest.importorskip(name, reason='needs the extra "course"')
nbformat = pytest.importorskip("nbformat", reason='needs the extra "course"')

COURSE = Path(__file__).parents[2] / "tutorials"
sys.path.insert(0, str(COURSE))
course = importlib.import_module("build")
notebooks = importlib.import_module("pages.notebooks")
text = importlib.import_module("pages.text")
ladder = importlib.import_module("pages.ladder")
source = importlib.import_module("checks.source")
sys.path.remove(str(COURSE))
RUN = ("01_what_to_remember", "09_bits_per_parameter")  # they train nothing, so they are quick
README = (COURSE / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site with two executed lessons, and with the pages of a run and of a sweep."""
    out = tmp_path_factory.mktemp("course") / "site"
    course.main(["--out", str(out), "--fast", "1", "9"])
    return out


@pytest.fixture(scope="module")
def pages(site) -> dict[str, "Reader"]:
    """What is in each page that the site has made itself."""
    made = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    for name in ("probe.html", "sweep.html"):
        del made[name]  # tinymem's own pages, which have tests of their own
    return {name: Reader(path.read_text(encoding="utf-8")) for name, path in made.items()}


class Reader(HTMLParser):
    """Collects what a test asks about a page."""

    def __init__(self, html: str):
        super().__init__()
        self.html, self.title = html, ""
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""  # outside code, output and mathematics
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "hr", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "title" in self.open:
            self.title += data
        if not {"pre", "code", "math", "style", "title"} & set(self.open):
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def links(self) -> list[str]:
        found = [attrs.get(key) for _, attrs in self.tags for key in ("href", "src")]
        return [link for link in found if link is not None and not link.startswith("data:")]

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]


# --- Notebooks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", course.LESSONS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_has_the_code_of_its_lesson(site, path):
    notebook = nbformat.read(site / "notebooks" / f"{path.stem}.ipynb", as_version=4)
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code = "\n".join(cell.source for cell in cells)
    assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(path.read_text(encoding="utf-8")))
    assert all(cell.execution_count for cell in cells) == (path.stem in RUN)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\((?!\w+:|#)([^)]+)\)", prose):
        assert (site / "notebooks" / link).is_file(), link


def test_an_executed_notebook_prints_what_the_script_prints(site):
    notebook = nbformat.read(site / "notebooks" / f"{RUN[1]}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.text for output in outputs if output.get("name") == "stdout")
    shown = course.printed(README)[RUN[1]]
    assert re.sub(r"[\d.,]+", "n", said) == re.sub(r"[\d.,]+", "n", shown)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert not any(output.output_type == "execute_result" for output in outputs)  # no stray values


@pytest.mark.parametrize("name", ["exercises", "mymem"])
def test_the_notebook_of_a_hand_in_is_graded_like_the_file(site, tmp_path, name):
    path, file = site / "notebooks" / f"{name}.ipynb", COURSE / f"{name}.py"
    nbformat.validate(nbformat.read(path, as_version=4))
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.dump(ast.parse(source.read(path))) == ast.dump(ast.Module(tree.body[1:], []))
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:  # one function or class a cell, so that a student can run it
        body = ast.parse("".join(cell["source"])).body if cell["cell_type"] == "code" else []
        defined = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        assert len(defined) <= 1 and (not defined or body == defined)
    sections = re.findall(r"^# --- (.*?) -+$", file.read_text(encoding="utf-8"), re.MULTILINE)
    titles = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    assert titles[1:] == [f"## {section}" for section in sections]


def test_a_notebook_that_was_edited_is_not_built_again(tmp_path, capsys):
    command = ["--out", str(tmp_path), "--notebooks", "--no-run"]
    course.main(command)
    fresh = {path: path.read_bytes() for path in tmp_path.glob("*.ipynb")}
    solved, lesson, untouched = (
        tmp_path / f"{name}.ipynb" for name in ("mymem", "05_one_half_is_enough", "exercises")
    )
    for path in (solved, lesson, untouched):
        notebook = nbformat.read(path, as_version=4)
        if path != untouched:
            notebook.cells[-1].source += "\nmine = 1"
        notebook.metadata["kernelspec"]["display_name"] = "as saved by an editor"
        nbformat.write(notebook, path)
    capsys.readouterr()
    course.main(command)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kept ")]
    assert len(told) == 2 and all(str(path) in "".join(told) for path in (solved, lesson))
    changed = {path for path, before in fresh.items() if path.read_bytes() != before}
    assert changed == {solved, lesson} and "mine = 1" in solved.read_text(encoding="utf-8")


def cells_of(*sources: str):
    new = nbformat.v4
    heading = new.new_markdown_cell("# 5. A lesson\n\n## Run")
    return notebooks.finished([heading, *map(new.new_code_cell, sources)], "lesson")


def test_a_lesson_that_fails_is_named_with_its_cell_in_one_line(tmp_path):
    shares = []
    notebook = cells_of("x = 1", "assert x == 2, 'not\\ntwo'", "x = 3")
    with pytest.raises(course.CourseError) as failed:
        notebooks.execute(notebook, "05_a_lesson", tmp_path, True, shares.append)
    assert str(failed.value) == "05_a_lesson, cell 3 (Run): AssertionError: not"
    assert shares == [0, 0.25, 0.5]


def test_what_a_cell_prints_is_one_output_and_bars_leave_nothing(tmp_path):
    loop = "for n in range(3): print(n, flush=True); time.sleep(0.2)"
    bars = "with tm.bars() as bars: list(bars.track(range(3), 'trying'))"
    notebook = cells_of(f"import time\nimport tinymem as tm\n{loop}\n{bars}\n{loop}")
    notebooks.execute(notebook, "lesson", tmp_path, False, lambda share: None)
    (output,) = notebook.cells[1].outputs
    assert output.text == "0\n1\n2\n" * 2


def error(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        course.main([str(argument) for argument in arguments])
    assert str(stopped.value).count("\n") == 0
    return str(stopped.value)


def test_wrong_options_get_one_line(capsys, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert error(capsys) == "error: choose a folder with --out, or --readme"
    assert error(capsys, "--out", out, 13) == "error: no lesson 13; the lessons are 0 to 12"
    assert "choose another one" in error(capsys, "--out", COURSE)
    assert "no other option" in error(capsys, "--readme", "--fast")
    (tmp_path / "file").write_text("")
    assert "error: " in error(capsys, "--out", tmp_path / "file", "--no-run")
    monkeypatch.setitem(sys.modules, "jupytext", None)
    for module in ("pages.build", "pages.notebooks", "pages.ladder", "pages.site"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    message = error(capsys, "--out", out, "--no-run")
    assert message.startswith("error: the extra `course` is missing")
    assert message.endswith('pip install -e ".[course]"') and not out.exists()


def test_without_running_there_are_no_outputs_and_every_page_says_so(tmp_path, site, pages):
    out = tmp_path / "out"
    course.main(["--out", str(out), "--no-run"])
    assert {path.name for path in out.glob("*.html")} == {
        *(name for name in pages if "/" not in name and name != "look.html")
    }
    for path in course.LESSONS:
        html = (out / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "Its code was not run for this page" in html and 'class="output' not in html
        assert ('class="output' in pages[f"{path.stem}.html"].html) == (path.stem in RUN)


def test_a_build_of_one_lesson_keeps_the_outputs_of_the_others(tmp_path, site):
    out = tmp_path / "notebooks"
    shutil.copytree(site / "notebooks", out)
    (out / f"{RUN[1]}.ipynb").unlink()
    course.main(["--out", str(out), "--fast", "--notebooks", "9"])
    assert not list(out.rglob("*.html"))
    for name in RUN:
        before, after = (
            nbformat.read(folder / f"{name}.ipynb", as_version=4)
            for folder in (site / "notebooks", out)
        )
        assert [c.get("execution_count") for c in before.cells] == [
            c.get("execution_count") for c in after.cells
        ]


# --- The pages ------------------------------------------------------------------------------------


def test_every_link_and_picture_exists_and_is_relative(site, pages):
    places = {site / name: reader for name, reader in pages.items()}
    count = 0
    for name, reader in pages.items():
        for link in reader.links:
            if re.match(r"https://", link):
                continue
            target, _, anchor = link.partition("#")
            path = ((site / name).parent / unquote(target)).resolve() if target else site / name
            assert path.is_file() and path.is_relative_to(site), f"{name}: {link}"
            assert not anchor or anchor in places[path].ids, f"{name}: {link}"
            assert not target.startswith("/")
            count += 1
    assert count > 500
    assert not any("https:" in attrs.get("src", "") for r in pages.values() for _, attrs in r.tags)


def test_the_key_is_not_in_the_site(site, pages):
    assert not any("answer_key" in path.name for path in site.rglob("*"))
    assert not any(name.startswith("source/tests") for name in pages)
    named = [link for link in pages["for-teachers.html"].links if "answer_key" in link]
    assert named == [] and "tests/answer_key.py" in pages["for-teachers.html"].html


def test_every_page_is_sound(pages):
    for name, reader in pages.items():
        assert reader.open == [], name
        assert [attrs["lang"] for attrs in reader.all("html")] == ["en"]
        assert len(reader.all("main")) == len(reader.all("h1")) == 1, name
        assert reader.title and len(reader.ids) == len(set(reader.ids)), name
        assert all(attrs.get("alt") for attrs in reader.all("img")), name
        assert all(attrs.get("aria-label") for attrs in reader.all("nav")), name
        assert all(attrs.get("title") for attrs in reader.all("iframe")), name
        assert not reader.all("script") and "<!--" not in reader.html, name
        levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
        assert all(after - before <= 1 for before, after in pairwise(levels))
    titles = [reader.title for reader in pages.values()]
    assert len(set(titles)) == len(titles)


def test_previous_and_next_lead_through_all_pages_and_back(pages):
    def steps(name: str) -> dict[str, str]:
        return {a["rel"]: a["href"] for a in pages[name].all("a") if a.get("rel")}

    walked = ["index.html"]
    while "next" in steps(walked[-1]):
        walked.append(steps(walked[-1])["next"])
        assert steps(walked[-1])["prev"] == walked[-2]
    assert "prev" not in steps("index.html")
    assert walked[1 : len(course.LESSONS) + 1] == [f"{path.stem}.html" for path in course.LESSONS]
    more = ["ladder.html", "look.html", "map.html", "glossary.html", "for-teachers.html"]
    assert set(walked) >= {*more, "reference.html"}
    for name in walked:
        current = [a for a in pages[name].all("a") if a.get("aria-current") == "page"]
        assert [a["href"] for a in current] == [name]
        listed = [a["href"] for a in pages[name].all("a") if a["href"] in walked]
        assert set(listed) == set(walked)


def test_mathematics_is_mathml_and_none_is_left_as_source(pages):
    for path in course.LESSONS:
        prose = course.Lesson(path).prose
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", prose, flags=re.DOTALL)
        formulas = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", prose, re.DOTALL)
        reader = pages[f"{path.stem}.html"]
        assert len(reader.all("math")) == len(formulas), path.stem
        assert not re.search(r"\$|\\[a-z]+", reader.text), path.stem


@pytest.mark.parametrize(
    "formula, reason",
    [(r"\left(", "is not complete"), (r"a \fraction b", r"unknown command, \fraction")],
)
def test_a_formula_that_cannot_be_read_is_shown(formula, reason):
    with pytest.raises(course.CourseError) as failed:
        text.Text(str, str).html(f"# A\n\n${formula}$")
    assert str(failed.value).startswith(f"the formula {formula} ") and reason in str(failed.value)


def test_the_ladder_shows_every_contract(pages):
    reader, tree = pages["ladder.html"], ast.parse((COURSE / "mymem.py").read_text("utf-8"))
    plain = re.sub(r"<[^>]+>", "", reader.html)
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert len(names) > 20 and all(re.search(rf"(def|class) {name}\b", plain) for name in names)
    assert all(f"pytest tutorials -m rung{n}" in plain for n in range(1, 10))
    assert "NotImplementedError" not in plain


def test_sections_of_the_readme_have_their_pages(pages):
    for name, title in {"map.html": "The map of the paper", "glossary.html": "Glossary"}.items():
        assert pages[name].title.startswith(title) and pages[name].all("table")
    start = pages["index.html"]
    assert f"{course.LESSONS[5].stem}.html" in start.links and "glossary" not in start.ids
    assert not any(
        link.endswith(".md") for r in pages.values() for link in r.links if ":" not in link
    )


# --- In Chromium ----------------------------------------------------------------------------------


@contextmanager
def opened(browser, path: Path, site: Path, scheme: str, width: int):
    """A page of the site; nothing is loaded from elsewhere, and nothing is complained of."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert complaints == []
    away = [url for url in requests if not url.startswith((site.as_uri(), "data:"))]
    assert away == []
    page.close()


@pytest.mark.parametrize("scheme, width", [("light", 1200), ("dark", 360)])
def test_pages_fit_have_contrast_and_load_nothing_from_elsewhere(
    browser, site, pages, scheme, width
):
    few = ["index.html", "05_one_half_is_enough.html", "ladder.html", "map.html", "look.html"]
    all_own = [name for name in pages if "/" not in name]
    for name in few if width > 1000 else [*all_own, "source/tinymem/unit/lora.py.html"]:
        with opened(browser, site / name, site, scheme, width) as page:
            assert overflow(page) <= 0, name
            assert page.evaluate(CONTRAST) >= 4.5, name


def test_formulas_take_space_and_the_keyboard_reaches_what_scrolls(browser, site):
    with opened(browser, site / "05_one_half_is_enough.html", site, "light", 360) as page:
        boxes = page.eval_on_selector_all(
            "math", "all => all.map(one => one.getBoundingClientRect().height)"
        )
        assert boxes and min(boxes) > 4
        assert page.evaluate("document.querySelectorAll('mfrac').length") > 0
        hidden = """[...document.querySelectorAll('pre, .scroll')].filter(
            one => one.scrollWidth > one.clientWidth && one.tabIndex < 0).length"""
        assert page.evaluate(hidden) == 0
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # "All pages"
        assert page.evaluate("location.hash") == "#pages"


def test_the_pages_of_a_run_and_of_a_sweep_work_inside_the_site(browser, site):
    with opened(browser, site / "look.html", site, "light", 1200) as page:
        run, sweep = page.query_selector_all("iframe")
        run.scroll_into_view_if_needed()
        frame = run.content_frame()
        frame.wait_for_selector("[role=option]")
        assert len(frame.query_selector_all("[role=option]")) == 64
        sweep.scroll_into_view_if_needed()
        sweep.content_frame().wait_for_selector("h1")
