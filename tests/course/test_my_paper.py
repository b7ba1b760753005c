"""The student's paper: tables beside the recorded ones, a picture, and a sweep that goes on."""

import re
import sys

import my_paper  # conftest.py adds its folder to the path
import pytest

from tests.course.conftest import TUTORIALS

KEY = TUTORIALS.parent / "tests" / "answer_key.py"
SMALL = my_paper.FAST._replace(steps=3, recall={"plain": [2, 8], "margin": [2]}, recall_steps=12)


@pytest.fixture
def paper(tmp_path, monkeypatch, capsys):
    """A function that writes the paper of this mymem.py, and returns what it prints."""
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.setattr(my_paper, "FAST", SMALL)
    monkeypatch.setenv("COLUMNS", "80")

    def write(text: str, *options: str) -> str:
        (tmp_path / "mymem.py").write_text(text, encoding="utf-8")
        paths = ["--mymem", str(tmp_path / "mymem.py"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["my_paper.py", "--fast", *paths, *options])
        my_paper.main()
        return capsys.readouterr().out

    return write


def test_a_paper_with_the_key_goes_on_where_it_stopped(paper, tmp_path):
    answers = KEY.read_text(encoding="utf-8")
    first = paper(answers)
    assert "…" not in first and all(len(line) <= 90 for line in first.splitlines()[:22])
    for who, steps, runs in (("yours", 3, 9), ("recorded", 400, 36)):
        assert re.search(rf"{who} +{steps} +{runs} +\d+ +\d+\.\d +0\.\d\d \[", first), first
    assert "00_the_whole_paper.py is one way to have written all this" in first
    picture = tmp_path / "out" / "my_paper.png"
    assert picture.stat().st_size > 10_000
    # Whoever runs a finished sweep again trains nothing, and finds the same.
    again = paper(f"{answers}\ndef run_cell(*_):\n    raise RuntimeError\n")
    assert again == first


def test_what_is_not_written_can_come_from_the_library(paper, tmp_path):
    stubs = (TUTORIALS / "mymem.py").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match=r"mymem.py: not written yet: Rung 7: sweep"):
        paper(stubs)
    kept = KEY.read_text(encoding="utf-8") + "\ndel attach, judge, sweep\n"
    assert "yours" in paper(kept, "--from-library", "1-5,7")
    with pytest.raises(SystemExit) as ended:
        paper(stubs, "--from-library", "1-11")
    assert ended.value.code == 2
