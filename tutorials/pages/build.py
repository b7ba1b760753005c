"""Builds the notebooks and the site: what is run, in which order, and with which progress."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .lessons import HERE, LESSONS, CourseError, Lesson
from .notebooks import answer_notebook, execute, is_edited, lesson_notebook, portable, write
from .readme import PAGE, copy_rows, seconds_shown
from .site import TEACHERS, Site

ANSWERS = ("exercises", "mymem")
LOOKS = {  # page: the command that writes it
    "probe.html": "tinymem probe --rank 4 --length 64 --html probe.html",
    "sweep.html": "tinymem sweep --ranks 1,2,4 --lengths 16,32,64 --steps 200 --out grid"
    " --html sweep.html",
}
QUICKER = ("--steps 200", "--steps 40")  # with --fast
START = 4  # seconds that a kernel or a command needs before its work


class Steps:
    """A bar over all that is run, with the time left, and a line for each that is finished."""

    def __init__(self, costs: dict[str, float]):
        """costs: the seconds that each will take, roughly."""
        self.costs, self.console = costs, Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(24), TimeRemainingColumn()
        left = TextColumn("[dim]left[/]")
        look = {"transient": True, "disable": not self.console.is_terminal}
        self.bars = Progress(
            *columns, left, console=self.console, speed_estimate_period=120, **look
        )
        self.bar = self.bars.add_task("building", total=sum(costs.values()))
        self.shares = dict.fromkeys(costs, 0.0)

    def __enter__(self) -> "Steps":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def follow(self, name: str, work: Callable[[Callable[[float], None]], None]) -> None:
        """Does the work, which reports the share that is finished, and prints its seconds."""

        def share(value: float) -> None:
            self.shares[name] = value
            done = sum(self.costs[key] * part for key, part in self.shares.items())
            self.bars.update(self.bar, completed=done, description=name)

        start = time.perf_counter()
        work(share)
        share(1.0)
        self.console.print(f"{time.perf_counter() - start:6.1f} s  {name}", highlight=False)


def build(out: Path, lessons: list[Path], fast: bool, run: bool, pages: bool) -> None:
    """Writes notebooks, and pages unless only notebooks are wanted, into the folder `out`."""
    folder = out / "notebooks" if pages else out
    folder.mkdir(parents=True, exist_ok=True)
    notebooks = {path: lesson_notebook(path) for path in LESSONS}
    for path, notebook in notebooks.items():
        if run and path not in lessons:
            keep_outputs(notebook, folder / f"{path.stem}.ipynb")
        write_unless_edited(portable(notebook), folder / f"{path.stem}.ipynb")
    for name in ANSWERS:
        write_unless_edited(answer_notebook(HERE / f"{name}.py"), folder / f"{name}.ipynb")
    if run:
        run_all({path: notebooks[path] for path in lessons}, folder, out if pages else None, fast)
    copy_rows(folder)
    shutil.copytree(HERE / "pictures" / "ideas", folder / "pictures" / "ideas", dirs_exist_ok=True)
    if pages:
        write_site(out, notebooks, fast)


def write_unless_edited(notebook: NotebookNode, path: Path) -> None:
    """Writes the notebook, but never over somebody's work."""
    if is_edited(path):
        print(f"kept {path}: it was edited. Rename it to get a new one", file=sys.stderr)
    else:
        write(notebook, path)


def run_all(
    notebooks: dict[Path, NotebookNode], folder: Path, out: Path | None, fast: bool
) -> None:
    """Executes the notebooks, and writes them to `folder` and the interactive pages to `out`.

    With --fast, two at a time; otherwise one at a time, because lessons measure their speed.
    """
    seconds = seconds_shown(PAGE.read_text(encoding="utf-8"))
    costs = {
        path.stem: START + seconds.get(path.stem, 10) * (0.3 if fast else 1) for path in notebooks
    }
    costs |= dict.fromkeys(LOOKS if out else (), START)
    with (
        Steps(costs) as steps,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
    ):
        copy_rows(Path(scratch))

        def one(name: str) -> None:
            if name in LOOKS:
                steps.follow(name, lambda share: write_look(out, name, fast))
                return
            notebook = next(book for path, book in notebooks.items() if path.stem == name)
            steps.follow(name, lambda share: execute(notebook, name, Path(scratch), fast, share))
            if not is_edited(folder / f"{name}.ipynb"):
                write(portable(notebook), folder / f"{name}.ipynb")

        # The longest first, so that the two workers end at about the same time.
        order = sorted(costs, key=costs.get, reverse=True) if fast else list(costs)
        pool = ThreadPoolExecutor(min(2, os.cpu_count() or 1) if fast else 1)
        try:
            list(pool.map(one, order))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def command_of(name: str, fast: bool) -> str:
    """The command that writes an interactive page."""
    return LOOKS[name].replace(*QUICKER) if fast else LOOKS[name]


def write_look(out: Path, name: str, fast: bool) -> None:
    """Runs the command that writes an interactive page."""
    command = command_of(name, fast)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            **{"cwd": folder, "capture_output": True, "text": True, "encoding": "utf-8"},
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CourseError(f"{command}: {reason}")
        shutil.copyfile(Path(folder, name), out / name)


def keep_outputs(notebook: NotebookNode, earlier: Path) -> None:
    """Takes over the outputs of an earlier build, if its cells are the same."""
    if not earlier.is_file() or is_edited(earlier):
        return
    old, new = nbformat.read(earlier, as_version=4).cells, portable(notebook).cells
    if [cell.source for cell in old] == [cell.source for cell in new]:
        for before, cell in zip(old, notebook.cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = before.outputs, before.execution_count


def write_site(out: Path, notebooks: dict[Path, NotebookNode], fast: bool) -> None:
    """All pages, in the order of the list of pages."""
    site, looks = Site(out), all((out / name).is_file() for name in LOOKS)
    site.add_readme("index.html", "Start")
    for path, notebook in notebooks.items():
        site.add_lesson(Lesson(path), notebook, looks)
    site.add_ladder()
    if looks:
        site.add_look({name: command_of(name, fast) for name in LOOKS})
    site.add_readme("map.html", "The map of the paper")
    site.add_readme("glossary.html", "Glossary")
    for name, title in TEACHERS.items():
        if (HERE / name).is_file():
            site.add_file(HERE / name, title)
    site.write()
