"""Where the files of the project are in the site, and the links between them."""

import posixpath
import re
from collections import deque
from importlib.util import find_spec
from pathlib import Path

from .lessons import HERE, LESSONS, CourseError
from .text import Text, slug

ROOT = HERE.parent
README = HERE / "README.md"
# The sections of README.md that are pages of their own. Lessons have theirs; the rest is the start.
OWN_PAGES = {
    "The ladder": "ladder.html",
    "The map of the paper": "map.html",
    "Glossary": "glossary.html",
}
SHOWN = "What the lessons show"  # the section of README.md that the pages of the lessons replace


def library() -> Path:
    """The folder that contains tinymem/, also where tutorials/ stands alone."""
    if (ROOT / "tinymem").is_dir():
        return (ROOT / "tinymem").resolve().parent
    spec = find_spec("tinymem")
    return Path(spec.origin).resolve().parents[1] if spec and spec.origin else ROOT


def readme_sections() -> list[tuple[str, str, str]]:
    """(title, place, Markdown below the title) of each section of README.md, the start first."""
    start, *parts = re.split(r"^## ", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    heading, _, text = start.partition("\n")
    sections = [(heading.removeprefix("# "), "index.html", text)]
    lessons = {path.stem[:2]: path.stem for path in LESSONS}
    for part in parts:
        title, _, text = part.partition("\n")
        if title == SHOWN:
            continue
        number = re.match(r"\[?(\d+)\. ", title)
        place = f"{lessons[number[1].zfill(2)]}.html" if number else OWN_PAGES.get(title)
        sections.append((title, place or "index.html", text))
    return sections


class Links:
    """Finds the link to a file of the project, and notes which files the site must have."""

    def __init__(self) -> None:
        self.library = library()
        self.sections = readme_sections()
        self.anchors: dict[str, tuple[str, str]] = {}  # of README.md: place and anchor there
        for title, place, text in self.sections:
            own = "" if place != "index.html" else slug(title)
            self.anchors[slug(title)] = (place, own)
            for name in re.findall(r"^###+ (.+)$", text, re.MULTILINE):
                self.anchors[slug(name)] = (place, slug(name))
        self.anchors[slug(SHOWN)] = ("index.html", "the-lessons")
        self.waiting: deque[Path] = deque()
        self.known: set[Path] = {README, *LESSONS}

    def place(self, path: Path) -> str:
        """Where the page of a file is in the site, or where the file itself is copied to."""
        if path == README:
            return "index.html"
        if path in LESSONS:
            return f"{path.stem}.html"
        name = path.relative_to(self.root_of(path)).as_posix()
        if path.suffix == ".py":
            return f"source/{name}.html"
        name = path.relative_to(HERE).as_posix() if path.is_relative_to(HERE) else name
        return name.removesuffix(".md") + ".html" if path.suffix == ".md" else name

    def root_of(self, path: Path) -> Path:
        """The folder that contains tutorials/ or tinymem/, whichever the file is in."""
        return ROOT if path.is_relative_to(ROOT) else self.library

    def want(self, path: Path) -> str:
        """The place of the file, which the site will have from now on."""
        if path not in self.known:
            self.known.add(path)
            self.waiting.append(path)
        return self.place(path)

    def resolve(self, target: str, source: Path, page: str) -> str | None:
        """The link from `page` to what `target` means in the file `source`, if the site has it."""
        if re.match(r"\w+:", target):
            return target
        name, _, anchor = target.partition("#")
        path = (source.parent / name).resolve() if name else source
        package = self.library / "tinymem"
        if path.is_relative_to(ROOT / "tinymem"):  # elsewhere, if tutorials/ stands alone
            path = package / path.relative_to(ROOT / "tinymem")
        if not path.is_relative_to(HERE) and not path.is_relative_to(package):
            return None  # such as the key to the exercises
        if not path.exists():
            raise CourseError(f"links to {target}, which does not exist")
        if path.is_dir():
            path /= "README.md"
            if not path.is_file():
                return None
        place = self.want(path)
        if path == README and anchor:
            if anchor not in self.anchors:
                raise CourseError(f"links to {target}, which has no such heading")
            place, anchor = self.anchors[anchor]
        relative = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"{relative}#{anchor}" if anchor else relative

    def mention(self, text: str, page: str) -> str | None:
        """The link to the source of a file of the project whose name stands in the text."""
        if not re.fullmatch(r"[\w/]+/\w+\.py", text):
            return None
        candidates = (self.library / text, self.library / "tinymem" / text, ROOT / text)
        path = next((path for path in candidates if path.is_file()), None)
        return self.resolve(str(path), path, page) if path else None

    def text(self, source: Path, page: str) -> Text:
        """Renders Markdown that stands in `source`, for `page`."""
        return Text(
            lambda target: self.resolve(target, source, page), lambda name: self.mention(name, page)
        )
