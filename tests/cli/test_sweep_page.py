"""`sweep --html` and `fit --html`: when the page is written, and from which rows.

tests/show/test_sweep_page.py opens the pages; here their data is read from the file.
"""

import json
import re
import subprocess
import sys
import warnings

import pytest

from tests.cli.test_law_mutations import mutations
from tinymem.cli import sweep as command
from tinymem.errors import TinymemError
from tinymem.experiment.rows import read_rows
from tinymem.law.fit import fit_rows
from tinymem.show.grid import sweep_page

SMALL = ["--ranks", "1,2,4", "--lengths", "4,6,8", "--steps", "3"]


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)<', text)[1])


def test_sweep_writes_the_page_that_fit_writes_also_of_a_finished_folder(tinymem, tmp_path):
    ran, page, again, fitted = (tmp_path / name for name in ("grid", "a.html", "b.html", "c.html"))
    assert tinymem("sweep", *SMALL, "--out", ran, "--html", page)[0] == 0
    assert tinymem("sweep", *SMALL, "--out", ran, "--html", again)[0] == 0
    assert tinymem("fit", ran, "--html", fitted)[0] == 0
    assert page.read_bytes() == again.read_bytes() == fitted.read_bytes()
    assert len(data_of(page)["columns"]["rank"]) == 9 and data_of(page)["laws"][0]["name"]


def test_an_interrupted_sweep_shows_what_is_there_and_what_is_missing(
    tinymem, monkeypatch, tmp_path
):
    whole = command.run_sweep

    def interrupted(model, grid, folder, **more):
        whole(model, dict(list(grid.items())[:2]), folder, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_sweep", interrupted)
    out, page = tmp_path / "grid", tmp_path / "page.html"
    code, _, _ = tinymem("sweep", *SMALL, "--out", out, "--html", page)
    data = data_of(page)
    assert code == 130 and data["columns"]["status"] == ["ok"] * 2 + ["missing"] * 7
    assert data["about"] == "2 runs, 7 missing" and "at least 3 different ranks" in data["reason"]


def test_an_interruption_before_the_first_row(tinymem, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_sweep", interrupted)
    page = tmp_path / "page.html"
    assert tinymem("sweep", *SMALL, "--out", tmp_path / "grid", "--html", page)[0] == 130
    data = data_of(page)
    assert data["about"] == "0 runs, 9 missing" and data["reason"] == "no rows to fit"


def test_of_several_workers_only_the_first_writes(tinymem, monkeypatch, tmp_path):
    class Second(command.Workers):
        def __init__(self):
            super().__init__()
            self.rank = 1

    page = tmp_path / "page.html"
    monkeypatch.setattr(command, "Workers", Second)
    options = ["--ranks", "1", "--lengths", "4", "--steps", "1", "--html", page]
    assert tinymem("sweep", "--out", tmp_path / "grid", *options)[0] == 0
    assert read_rows(tmp_path / "grid")[0] and not page.exists()


@pytest.mark.parametrize("name", ["page.txt", "nowhere/page.html"])
def test_a_place_that_cannot_be_is_refused_before_the_sweep(tinymem, tmp_path, name):
    out = tmp_path / "grid"
    code, _, err = tinymem("sweep", *SMALL, "--out", out, "--html", tmp_path / name)
    assert code == 2 and "--html" in err and err.count("\n") == 1 and not out.exists()


def test_rows_of_strangers_cannot_leave_their_place_in_the_page(tinymem, tmp_path):
    nasty = "</script><script>alert(1)</script>\u202e"
    rows = [
        {"rank": r, "length": n, "delta_loss": 8 * (r / n) ** 0.5 + 1, "method": nasty, "x": nasty}
        for r in (1, 2, 4)
        for n in (16, 64, 256)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = tmp_path / "page.html"
    assert tinymem("fit", tmp_path / "rows.jsonl", "--html", page)[0] == 0
    text = page.read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text and data_of(page)["common"]["x"] == nasty


def test_rows_that_give_a_law_give_a_page(tmp_path):
    """Mutated grids: whatever `fit` accepts can be looked at, without a warning of numpy."""
    written = 0
    for _, _, rows in mutations(25, seed=5):
        try:
            fits = fit_rows(rows, draws=4)
        except TinymemError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sweep_page(tmp_path / "page.html", rows, *fits)
        written += 1
        assert data_of(tmp_path / "page.html")["laws"]
    assert written >= 2


def test_fit_writes_its_page_without_torch(tmp_path):
    rows = [
        {"rank": r, "length": n, "base_loss": 12.0, "delta_loss": 8 * (r / n) ** 0.5 + 1}
        for r in (1, 2, 4)
        for n in (16, 64, 256)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code = """
import sys
sys.argv = ["tinymem", "fit", "rows.jsonl", "--html", "page.html"]
from tinymem.cli.app import main
try:
    main()
finally:
    sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    without_data = re.sub(r'id="data">.*?<', "", text)
    assert len(without_data.encode()) < 300_000 and "ΔL = 8 · r^0.500" in json.dumps(
        data_of(tmp_path / "page.html"), ensure_ascii=False
    )
