"""Progress on stderr: events go in, text comes out."""

import math
import re
from collections.abc import Iterator
from io import StringIO

import pytest
from rich.console import Console

from tinymem.show.progress import Bars

ROW = {"rank": 8, "length": 128, "ratio": 100, "method": "sft", "seed": 0, "status": "ok"}
ROW |= {"memorized_bits_per_parameter": 0.534, "base_loss": 11.62, "final_loss": 0.1234}
ROW |= {"converged": True, "certified": True, "wall_seconds": 12.3}


def console(terminal: bool, width: int = 80) -> Console:
    return Console(file=StringIO(), force_terminal=terminal, width=width, highlight=False)


def written(to: Console) -> str:
    """Everything that was printed, without colours and cursor movements."""
    assert isinstance(to.file, StringIO)
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", to.file.getvalue())


def screen(bars: Bars) -> list[str]:
    """The lines that a terminal shows below what was printed."""
    paper = console(terminal=True, width=bars.console.width)
    paper.print(bars.bars.get_renderable())
    return [line.rstrip() for line in written(paper).splitlines() if line.strip()]


def test_items_pass_through_under_a_bar_with_the_time_left():
    with Bars(console=console(terminal=True)) as bars:
        items = iter(bars.track(["a", "b", "c", "d"], "loading weights"))
        assert [next(items), next(items)] == ["a", "b"]
        assert re.search(r"25 % \d:\d\d:\d\d left", screen(bars)[0])  # known after one item
        assert next(items) == "c"
        (line,) = screen(bars)
        assert re.fullmatch(r"loading weights [━╸╺]{24}  50 % \d:\d\d:\d\d left", line)
        assert list(items) == ["d"] and screen(bars) == []
    assert "left" in written(bars.console)  # the display did refresh


def test_items_that_have_no_length_are_not_read_ahead():
    read = []

    def lazy() -> Iterator[int]:
        for n in range(3):
            read.append(n)
            yield n

    with Bars(console=console(terminal=True)) as bars:
        assert next(iter(bars.track(lazy(), "decoding"))) == 0 and read == [0]


def test_a_bar_goes_when_its_loop_fails():
    with Bars(console=console(terminal=True)) as bars, pytest.raises(ZeroDivisionError):
        for n in bars.track([0], "decoding"):
            print(1 / n)
    assert screen(bars) == []


def test_training_shows_how_far_it_is_and_stays_while_decoding_goes_on():
    with Bars(console=console(terminal=True)) as bars:
        bars.training(0, 100, 11.5, 0.0, math.nan)
        bars.training(25, 100, 1.5, 0.125, math.nan)
        bar, note = screen(bars)
        assert bar.startswith("training ━━━━━━") and re.search(r"  25 % \d:\d\d:\d\d left", bar)
        assert note == "step 25 of at most 100: loss 1.500 nats, p > ½ for 12 % of the tokens"
        tokens = iter(bars.track(range(2), "decoding"))
        assert next(tokens) == 0
        assert [line.split()[0] for line in screen(bars)] == ["training", "decoding", "step"]


def test_a_sweep_has_one_bar_for_its_whole_cost_and_a_line_for_each_cell():
    with Bars(console=console(terminal=True)) as bars:
        bars.sweep(3, 7, cost=400)
        bars.group("length 128, 2 cells", cost_before=100, cost=200)
        bars.training(50, 100, 2.0, 0.5, math.nan)
        bar, note = screen(bars)
        assert bar.startswith("sweep ━━━") and re.search(r"  50 % \d:\d\d:\d\d left", bar)
        assert note.startswith("length 128, 2 cells: loss 2.000 nats, p > ½ for 50 %")
        bars.training(100, 100, 1.0, 0.75, math.nan)
        assert list(bars.track(range(5), "decoding")) == [0, 1, 2, 3, 4]
        assert screen(bars)[1] == "length 128, 2 cells: decoding"
        bars.cell(ROW, cost_done=200)  # the first of two: the bar does not go back
        bars.cell(ROW | {"rank": 4}, cost_done=300)
        assert "  75 % " in screen(bars)[0]
        bars.group("length 256, 1 cell", cost_before=350, cost=50)  # another worker did 50
        bars.training(100, 100, 1.0, 0.75, math.nan)
        assert " 100 % " in screen(bars)[0]
    text = written(bars.console)
    assert "3 of 7 cells are there already\n" in text
    assert re.findall(r"rank +(\d), length  128, sft, seed 0: loss 11.62 → 0.123", text) == [
        "8",
        "4",
    ]


def test_a_log_file_gets_whole_lines_and_no_bars():
    with Bars(console=console(terminal=False, width=40)) as bars:
        bars.warn("results.jsonl, line 7 [bold]: torn")
        bars.sweep(0, 2, 10)
        bars.group("rank 8", 0, 5)
        bars.training(50, 100, 2.0, 0.5, math.nan)
        bars.cell(ROW, 5)
        bars.cell(ROW | {"status": "oom", "ratio": 50}, 10)
    assert written(bars.console).strip().splitlines() == [
        "results.jsonl, line 7 [bold]: torn",
        "rank   8, length  128, sft, seed 0: loss 11.62 → 0.123, certified, 12 s, "
        "0.53 memorized bits per parameter",
        "rank   8, length  128, 50 % random, sft, seed 0: oom",
    ]


def test_a_narrow_terminal_keeps_each_cell_on_one_line():
    with Bars(console=console(terminal=True, width=60)) as bars:
        bars.sweep(0, 1, 1)
        bars.group("length 128, [ranks] 1, 2, 4, 8, 16, 32", 0, 1)
        bars.training(50, 100, 2.0, 0.5, math.nan)
        assert "length 128, [ranks] 1, 2, 4, 8, 16, 32: loss 2.000 nats" in screen(bars)[1]
        bars.cell(ROW, 1)
    assert "rank   8, length  128, sft, seed 0: loss 11.62 → 0.123, cer…" in written(bars.console)


def test_a_quiet_worker_shows_only_its_finished_cells():
    with Bars(quiet=True, console=console(terminal=False)) as bars:
        bars.sweep(3, 4, 10)
        bars.warn("torn")
        bars.training(50, 100, 2.0, 0.5, math.nan)
        assert list(bars.track(range(3), "decoding")) == [0, 1, 2]
        bars.cell(ROW, 10)
    assert written(bars.console).startswith("rank   8,") and written(bars.console).count("\n") == 1
    with Bars(quiet=True, console=console(terminal=True)) as bars:
        bars.training(50, 100, 2.0, 0.5, math.nan)
    assert written(bars.console).strip() == ""


def test_a_run_that_goes_on_does_not_count_what_was_done_before_as_speed():
    with Bars(console=console(terminal=True)) as bars:
        clock = [0.0]
        bars.bars.get_time = lambda: clock[0]
        for clock[0], done in ((10.0, 0.5), (20.0, 0.6), (30.0, 0.7)):
            bars.training(round(100 * done), 100, 1.0, 0.0, math.nan)
        (task,) = bars.bars.tasks
        assert task.percentage == pytest.approx(70)
        assert task.time_remaining == pytest.approx(30, abs=1)  # 0.3 at a tenth in ten seconds
