"""tutorials/reference.md is what the code says: made again, it is the same, and it is complete."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
from typer.main import get_command

import tinymem as tm
from tests.experiment.test_report import FIELDS
from tinymem.base.checkpoint import load
from tinymem.cli.app import app
from tinymem.experiment.rows import RESULTS, append_row
from tinymem.unit.adapter import save_adapter
from tinymem.unit.lora import Unit

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tutorials" / "reference.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]


def test_the_page_is_what_its_generator_writes():
    made = runpy.run_path(str(ROOT / "tutorials" / "reference.py"))["page"]()
    assert made == PAGE, "the code has changed: run python tutorials/reference.py"


def test_every_flag_of_every_command_is_there():
    commands = dict(get_command(app).commands)
    commands |= {f"data {name}": command for name, command in commands.pop("data").commands.items()}
    for name, command in commands.items():
        assert f"### tinymem {name}\n" in PAGE
        for option in command.params:
            for flag in (*option.opts, *option.secondary_opts):
                assert not flag.startswith("--") or f"`{flag}`" in PAGE, f"{name} {flag}"


def test_every_field_of_a_row_is_there(tinymem, tmp_path):
    """A real row: the report's fields in their table, the setting's beside it."""
    small = ["--ranks", "1", "--lengths", "4", "--steps", "2", "--out", tmp_path / "grid"]
    (row,) = json.loads(tinymem("sweep", *small, "--json")[1])
    report, rows = (section(name) for name in ("The report of a run", "Rows of a sweep"))
    documented = set(re.findall(r"^\| `(\w+)` \|", report, re.M))
    assert documented == set(row) - {"setting", "setting_hash"} and documented >= FIELDS
    assert set(re.findall(r"`(\w+)`", rows)) >= set(row["setting"]) | {"setting", "setting_hash"}


def test_every_public_name_is_there():
    names = set(re.findall(r"^\| `tm\.(\w+)` \|", section("In Python"), re.M))
    assert names == set(tm.__all__) - {"__version__"}


def test_the_line_for_pandas_makes_a_data_frame(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas", reason="the line is for those who have pandas")
    (tmp_path / "grid").mkdir()
    for rank in (1, 8):
        row = {"rank": rank, "final_loss": 2.5 / rank, "setting": {"dropout": 0.1, "layers": [2]}}
        append_row(tmp_path / "grid" / RESULTS, row)
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"`(pandas\.[^`]+)`", section("In Python"))
    frame = eval(line, {"pandas": pandas, "tm": tm})
    assert frame["rank"].tolist() == [1, 8] and frame["final_loss"].tolist() == [2.5, 0.3125]
    assert frame["setting.dropout"].tolist() == [0.1, 0.1] and frame["rank"].dtype == "int64"


def test_every_field_of_an_answer_of_judge_is_there(tinymem, tmp_path):
    model, _ = load("tiny", device="cpu")
    save_adapter(Unit.create(model, 1), model, tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("A text that is longer than a few tokens.", encoding="utf-8")
    options = "--adapter", tmp_path, "--text", text, "--context", 1, "--window", 2, "--json"
    found = json.loads(tinymem("judge", *options)[1])
    documented = set(re.findall(r"`(\w+)`", section("The answer of `judge --json`")))
    assert set(found) | set(found["windows"]) | set(found["capacity"]) <= documented


@pytest.fixture
def grid(tmp_path):
    """Rows of a planted law, at two ratios of random tokens."""
    rows = [
        {
            "rank": rank,
            "length": length,
            "ratio": ratio,
            "base_loss": 12.0,
            "delta_loss": 8 * (rank / length) ** 0.5 + 1,
            "entropy": 8.0,
            "trainable_parameters": 512 * rank,
            "recall_exact": length / rank < 50,
        }
        for rank in (1, 2, 4)
        for length in (16, 64, 256)
        for ratio in (50, 100)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows.jsonl"


def test_every_field_of_a_law_is_there(tinymem, grid):
    law = json.loads(tinymem("fit", grid, "--json")[1])
    text = section("The law: `fit --json`")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) == set(law) | set(law["recall"])
    assert set(law["constant_bits"]) <= set(re.findall(r"`(\w+)`", text))
    assert set(law["grid"]) <= set(re.findall(r"`(\w+)`", text))


def test_every_field_of_a_plan_is_there(tinymem, grid):
    plan = json.loads(tinymem("plan", grid, "--length", "100", "--loss", "5", "--json")[1])
    recital = json.loads(tinymem("plan", grid, "--length", "100", "--recite", "0.9", "--json")[1])
    text, more = section("The plan: `plan --json`").split("`plan --recite --json`")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) == set(plan)
    assert set(re.findall(r"^\| `(\w+)` \|", more, re.M)) == set(recital)


def test_every_field_of_a_merge_is_there(tinymem, tmp_path):
    model, _ = load("tiny")
    save_adapter(Unit.create(model, 1, sites=("c_attn",)), model, tmp_path / "unit")
    merged = tinymem("merge", tmp_path / "unit", "--out", tmp_path / "out", "--json")[1]
    text = section("Commands").split("### tinymem merge")[1].split("###")[0]
    rows = re.findall(r"^\| (`[^|]*`) \| [^|]* \|$", text, re.M)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(json.loads(merged))


def test_variables_that_the_code_reads_are_there():
    read = {
        name
        for path in (ROOT / "tinymem").rglob("*.py")
        for name in re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", path.read_text(encoding="utf-8"))
    }
    assert read and all(f"`{name}`" in section("Environment variables") for name in read)


def test_the_test_of_every_promise_is_there():
    named = re.findall(r"^\| .* \| `(tests/[\w/.]+)::(\w+)` \|$", section("Promises"), re.M)
    assert len(named) >= 20 and len(named) == section("Promises").count("::")
    for file, name in named:
        functions = ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        names = [node.name for node in functions if isinstance(node, ast.FunctionDef)]
        assert name in names and name.startswith("test_"), f"{file}::{name}"
