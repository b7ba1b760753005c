"""Bars in a notebook. A stand-in for IPython records what a cell is told to show."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

import tinymem as tm
from tests.toy import toy_memory, toy_model
from tinymem.show import notebook_bars
from tinymem.show.notebook_bars import NotebookBars
from tinymem.show.progress import Bars
from tinymem.system import in_notebook


@pytest.fixture
def shown(monkeypatch) -> list[tuple[str, str]]:
    """What the cell was told to show, as (HTML, text), while a kernel seems to run."""
    bundles: list[tuple[str, str]] = []

    def show(bundle, raw, display_id=None):
        assert raw and (display_id is True) == (not bundles)  # one output, later ones replace it
        bundles.append((bundle["text/html"], bundle["text/plain"]))
        return SimpleNamespace(update=show)

    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    display.display = show
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(notebook_bars, "AFTER", 0)
    monkeypatch.setattr(notebook_bars, "EVERY", 0)
    return bundles


def test_a_kernel_is_a_notebook_and_a_terminal_is_not(shown, monkeypatch):
    assert in_notebook()
    for shell in (None, SimpleNamespace(), SimpleNamespace(kernel=None)):
        monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda shell=shell: shell)
        assert not in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook() and "IPython" not in sys.modules


def test_a_run_shows_one_output_that_is_empty_in_the_end(shown):
    tm.memorize(toy_model(), toy_memory(4), rank=1, steps=30)
    (html, text), *_ = shown
    assert '<progress max="100" value="0.0" aria-label="training"' in html
    assert re.match(r"training +0 %, -:--:-- left\n.*loss \d", text)
    assert any("decoding" in text for _, text in shown)
    assert shown.count(("", "")) == 1 and shown[-1] == ("", "")


def test_a_lesson_asks_for_bars_where_it_runs(shown, monkeypatch):
    with tm.bars() as bars:
        tm.memorize(toy_model(), toy_memory(4), rank=1, steps=30, progress=bars)
    assert isinstance(bars, NotebookBars) and 'aria-label="training"' in shown[0][0]
    monkeypatch.delitem(sys.modules, "IPython")
    with tm.bars() as bars:
        assert type(bars) is Bars


def test_what_is_given_is_used_instead(shown):
    model, memory = toy_model(), toy_memory(4)
    tm.memorize(model, memory, rank=1, steps=2, progress=tm.SILENT)
    tm.judge(model, memory, tm.SILENT)
    assert shown == []
    with pytest.raises(TypeError, match="memories"):
        tm.judge(model)


def test_bars_go_after_an_error_and_a_script_has_none(shown, monkeypatch):
    class Stop(Exception):
        """Raised in the middle."""

    with pytest.raises(Stop), NotebookBars() as bars:
        for _ in bars.track(range(3), "<loading>"):
            assert "&lt;loading&gt;   0 %," in shown[0][0] and "<loading>" in shown[0][1]
            raise Stop
    assert shown[-1] == ("", "") and len(shown) == 2
    monkeypatch.delitem(sys.modules, "IPython")
    tm.judge(toy_model(), toy_memory(4))
    assert len(shown) == 2


def test_what_is_short_shows_nothing_and_what_is_long_not_too_often(shown, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(notebook_bars.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(notebook_bars, "AFTER", 0.25)
    monkeypatch.setattr(notebook_bars, "EVERY", 0.125)
    with NotebookBars() as bars:
        for step in bars.track(range(1, 65), "training"):
            clock[0] = step / 64
    assert len(shown) == 6 + 1  # drawn at 0.25, 0.375, … 0.875 s, and cleared
    with NotebookBars() as bars:
        assert list(bars.track([1, 2], "decoding")) == [1, 2]
    assert len(shown) == 7


def test_finished_cells_and_warnings_stay_as_text(shown, capsys):
    with NotebookBars() as bars:
        bars.sweep(1, 4, cost=10)
        bars.warn("a line is torn")
        bars.group("rank 8", 0, 10)
        assert list(bars.track([1], "decoding")) == [1]
        assert shown[-1][1] == "sweep   0 %, -:--:-- left\nrank 8: decoding"
    assert capsys.readouterr().out == "1 of 4 cells are there already\na line is torn\n"
