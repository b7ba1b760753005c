"""The pages of the site: lessons, sections of README.md, the ladder, and what these link to."""

import posixpath
import re
import shutil
from dataclasses import dataclass
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from nbformat import NotebookNode

from .ladder import contracts
from .lessons import HERE, LESSONS, CourseError, Lesson
from .links import README, Links
from .outputs import cells_html
from .text import Text, code

PAGES = HERE / "pages"
TEACHERS = {  # Markdown files that are in the list of pages
    "for-teachers.md": "For teachers",
    "problem-sets.md": "Problem sets",
    "reference.md": "Reference",
}
LOOK_AT = {4: "a-run", 5: "a-run", 7: "a-sweep", 8: "a-sweep"}  # lesson: what it can look at
FRAMES = {"probe.html": "The page of a run", "sweep.html": "The page of a sweep"}
LOOKING = """# Look at a run and at a sweep

tinymem has written these two pages. They react to the mouse and to the keyboard, and they load
nothing from anywhere.

## A run

    {probe.html}

The colour of a token shows its probability. Point at a token to see what the model would rather
say. Move the slider to see the training from its first step to its last.

[Open the run on a page of its own](probe.html)

## A sweep

    {sweep.html}

There is a cell for each rank and length. Below them are the law that the cells follow, and a
planner, which names the rank that a length needs.

[Open the sweep on a page of its own](sweep.html)
"""


@dataclass
class Page:
    """One page of the site. The pages with a name are in the list of pages, in this order."""

    place: str
    title: str
    body: str
    name: str = ""
    above: str = ""  # a line above the title, such as `Lesson 5 of 12`
    below: str = ""  # HTML after the text


class Site:
    """Collects the pages, and writes them when all are known."""

    def __init__(self, out: Path):
        self.out, self.links, self.pages = out, Links(), list[Page]()
        made = Environment(loader=FileSystemLoader(PAGES), autoescape=True, trim_blocks=True)
        self.layout = made.get_template("layout.html")

    def add(self, text: Text, source: str, place: str, markdown: str, name: str = "") -> Page:
        """A page of Markdown that stands in `source`, or that was made for it."""
        try:
            body = text.html(markdown)
        except CourseError as error:
            raise CourseError(f"{source}: {error}") from error
        self.pages.append(Page(place, text.title, body, name))
        return self.pages[-1]

    def add_file(self, path: Path, name: str = "") -> None:
        """The page of a Markdown file."""
        place = self.links.want(path)
        markdown = path.read_text(encoding="utf-8")
        self.add(self.links.text(path, place), path.name, place, markdown, name)

    def add_readme(self, place: str, name: str, more: str = "") -> None:
        """The sections of README.md that belong to this page, and more Markdown below them."""
        own = [(title, text) for title, where, text in self.links.sections if where == place]
        if not own:
            raise CourseError(f"README.md has no section for {place}")
        (title, start), *rest = own
        if place != "index.html":
            start = re.sub(r"^#(?=##+ )", "", start, flags=re.MULTILINE)
        parts = [f"# {title}\n{start}", *(f"## {title}\n{text}" for title, text in rest), more]
        self.add(self.links.text(README, place), "README.md", place, "\n".join(parts), name)

    def add_ladder(self) -> None:
        self.add_readme("ladder.html", "The ladder", contracts())

    def add_lesson(self, lesson: Lesson, notebook: NotebookNode, looks: bool) -> None:
        """A lesson, with its outputs if it was run. looks: there are pages to look at."""
        place, name = f"{lesson.stem}.html", re.escape(lesson.stem)
        readme = README.read_text(encoding="utf-8")
        shown = re.search(rf"!\[(.*?)\]\(pictures/{name}\.png\)", readme)
        alt = shown[1] if shown else f"The picture of lesson {lesson.number}"
        text = self.links.text(lesson.path, place)
        try:
            body = cells_html(notebook, text, lesson.stem, self.out, alt)
        except CourseError as error:
            raise CourseError(f"{lesson.path.name}: {error}") from error
        page = Page(place, lesson.title, body, lesson.title)
        page.above = f"Lesson {lesson.number} of {len(LESSONS) - 1}"
        if not any(cell.get("execution_count") for cell in notebook.cells):
            page.above += ". Its code was not run for this page."
        notebook_file = f"notebooks/{lesson.stem}.ipynb"
        page.below = f'<p><a href="{notebook_file}">This lesson as a notebook</a></p>'
        if looks and lesson.number in LOOK_AT:
            what = LOOK_AT[lesson.number]
            page.below += f'<p><a href="look.html#{what}">Look at {what.replace("-", " ")}</a></p>'
        self.pages.append(page)

    def add_look(self, commands: dict[str, str]) -> None:
        """The page that shows the interactive pages, and the commands that have written them."""
        markdown = LOOKING
        for name, command in commands.items():
            markdown = markdown.replace(f"{{{name}}}", command)
        text = Text(lambda target: target, lambda name: None)
        page = self.add(text, "the page of a run", "look.html", markdown, "Look at a run")
        for name, title in FRAMES.items():
            frame = f'<iframe src="{name}" title="{title}" loading="lazy"></iframe>'
            page.body = page.body.replace(f'<p><a href="{name}">', f'{frame}<p><a href="{name}">')

    def add_linked(self) -> None:
        """Pages of the files that other pages link to, and copies of pictures and data."""
        made = {page.place for page in self.pages}
        while self.links.waiting:
            path = self.links.waiting.popleft()
            place = self.links.place(path)
            if place in made:
                continue
            if path.suffix == ".md":
                self.add_file(path)
            elif path.suffix == ".py":
                shown = path.relative_to(self.links.root_of(path)).as_posix()
                body = f"<h1>{escape(shown)}</h1>\n" + code(
                    path.read_text(encoding="utf-8"), "python"
                )
                self.pages.append(Page(place, shown, body))
            else:
                (self.out / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, self.out / place)

    def write(self) -> None:
        """Writes all pages, with the list of pages, and with the previous and the next one."""
        self.add_linked()
        named = [page for page in self.pages if page.name]
        for page in self.pages:
            at = named.index(page) if page.name else None
            upwards = posixpath.relpath(".", posixpath.dirname(page.place) or ".")
            html = self.layout.render(
                page=page,
                course=self.pages[0].title,
                pages=named,
                up="" if upwards == "." else upwards + "/",
                previous=named[at - 1] if at else None,
                next=named[at + 1] if at is not None and at + 1 < len(named) else None,
            )
            path = self.out / page.place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(html, encoding="utf-8")
        shutil.copyfile(PAGES / "style.css", self.out / "style.css")
