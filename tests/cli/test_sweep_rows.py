"""The rows that `tinymem sweep` writes and prints, from random tokens, a data file and a text."""

import itertools
import json
from dataclasses import replace

import pytest

import tinymem as tm
from tests.experiment import conftest
from tests.experiment.sweeps import report_of, rows_of, run_command, stable_fields
from tinymem.data.memory import Memory, random_memory, text_memory
from tinymem.experiment import probe
from tinymem.experiment.probe import memorize
from tinymem.experiment.rows import RESULTS, read_rows
from tinymem.training.recipe import Recipe

one_cell_at_a_time, trained = conftest.one_cell_at_a_time, conftest.trained  # fixtures


def test_json_is_one_document_and_the_rest_goes_to_stderr(tmp_path):
    args = ["sweep", "--ranks", "2,1", "--lengths", "6,4", "--steps", "2", "--out", tmp_path]
    code, out, err = run_command(*args, "--json")
    rows = json.loads(out)
    cells = [(row["length"], row["rank"]) for row in rows]
    assert code == 0 and cells == [(6, 2), (6, 1), (4, 2), (4, 1)]
    assert stable_fields(rows) == rows_of(tmp_path) and "_where" not in rows[0]
    assert [line.split(":")[0] for line in err.splitlines()] == [
        f"rank   {rank}, length    {length}, sft, seed 0" for length in (6, 4) for rank in (2, 1)
    ]
    code, again, err = run_command(*args, "--json")
    assert code == 0 and json.loads(again) == rows and "4 of 4 cells are there already" in err
    code, shown, err = run_command(*args)
    assert code == 0 and "final loss" in shown and "final loss" not in err


def test_a_cell_equals_the_report_of_probe(tmp_path):
    base, tokenizer = tm.load("tiny")
    common = ["--steps", "3", "--layer", "1", "--lr", "0.03", "--dropout", "0.1"]
    common += ["--prompt", "Say it:"]
    axes = ["--ranks", "2,3", "--lengths", "5", "--methods", "sft, memft-ot", "--seeds", "0,7"]
    _, out, _ = run_command("sweep", *common, *axes, "--out", tmp_path, "--json")
    rows = json.loads(out)
    assert len(rows) == 8
    row = next(
        row for row in rows if (row["rank"], row["method"], row["seed"]) == (3, "memft-ot", 7)
    )
    one = ["--rank", "3", "--length", "5", "--method", "memft-ot", "--seed", "7"]
    alone = json.loads(run_command("probe", *common, *one, "--json")[1])
    assert stable_fields([alone]) == stable_fields([report_of(row)])
    memory = random_memory(tokenizer, 5, seed=7, prompt="Say it:")
    recipe = Recipe(rank=3, layers=(1,), method="memft-ot", steps=3, lr=0.03, seed=7, dropout=0.1)
    assert stable_fields([memorize(base, memory, recipe=recipe).report]) == stable_fields([alone])


def test_lengths_of_a_data_file_with_held_out_memories(tmp_path):
    lines = [{"prompt_ids": [n], "target_ids": [n + 20, *range(n)]} for n in (2, 3, 4)]
    held = [{"prompt_ids": [9], "target_ids": [8, 7]}]
    for name, part in (("data", lines), ("held", held)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in part))
    args = ["sweep", "--data", tmp_path / "data", "--held-out", tmp_path / "held"]
    args += ["--ranks", "2", "--steps", "3"]
    lengths = ["--lengths", "2,3,6,7,11,12,99"]
    code, out, _ = run_command(*args, *lengths, "--out", tmp_path / "grid", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["length"], row["memories"]) for row in rows] == [(2, 1), (3, 1), (7, 2), (12, 3)]
    base, _ = tm.load("tiny")
    memories = [Memory(line["prompt_ids"], line["target_ids"]) for line in lines]
    other = [Memory(line["prompt_ids"], line["target_ids"]) for line in held]
    for row, part in zip(rows[1:], (memories[:1], memories[:2], memories), strict=True):
        report = memorize(base, part, rank=2, steps=3, held_out=other).report
        assert stable_fields([report]) == stable_fields([report_of(row)])
        assert row["held_out_memories"] == 1 and row["held_out_loss"] > 0 and row["ratio"] is None
    code, out, _ = run_command(*args, "--out", tmp_path / "all", "--json")  # all memories
    assert stable_fields(json.loads(out)) == stable_fields(rows[-1:])


def test_ratios_of_a_text(tmp_path):
    text = "The miller's daughter counted the sacks twice, and wrote both numbers on the door."
    (tmp_path / "text").write_text(text)
    args = ["sweep", "--text", tmp_path / "text", "--ratios", "100,0,50"]
    args += ["--ranks", "2", "--steps", "3"]
    _, out, _ = run_command(
        *args, "--lengths", "6,8", "--seeds", "3", "--out", tmp_path / "grid", "--json"
    )
    rows, (base, tokenizer) = json.loads(out), tm.load("tiny")
    assert [(row["ratio"], row["length"]) for row in rows] == list(
        itertools.product((100, 0, 50), (6, 8))
    )
    for row in rows:
        memory = text_memory(tokenizer, text, length=row["length"], ratio=row["ratio"], seed=3)
        report = memorize(base, memory, rank=2, steps=3, seed=3).report
        assert stable_fields([report]) == stable_fields([report_of(row)])
        assert (row["memorized_bits"] is None) == (row["ratio"] < 100)
    whole = ["sweep", "--text", tmp_path / "text", "--ranks", "1", "--steps", "1", "--json"]
    _, out, _ = run_command(*whole, "--out", tmp_path / "all")
    (row,) = json.loads(out)
    assert row["ratio"] == 0 and row["length"] == len(tokenizer.encode(text))


def test_a_torn_line_is_reported_and_its_cell_run_again(tmp_path):
    args = ["sweep", "--ranks", "1,2", "--lengths", "4", "--steps", "2", "--out", tmp_path / "grid"]
    run_command(*args)
    path = tmp_path / "grid" / RESULTS
    path.write_bytes(path.read_bytes()[:-9])
    code, _, err = run_command(*args)
    assert code == 0 and "line 2: torn" in err and len(read_rows(path)[0]) == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_a_cell_out_of_memory_is_a_row_and_the_sweep_goes_on(tmp_path, monkeypatch, trained, error):
    real = probe.train

    def train(model, units, *args, **options):
        if units[0].rank == 1:
            raise error
        return real(model, units, *args, **options)

    monkeypatch.setattr(probe, "train", train)
    args = ["sweep", "--ranks", "1,2", "--lengths", "4,6", "--steps", "2", "--out", tmp_path]
    for _ in range(2):  # the second time, no cell is run again
        code, shown, _ = run_command(*args)
        assert code == 0 and "final loss" in shown
        assert [row["status"] for row in rows_of(tmp_path)] == ["oom", "ok", "oom", "ok"]
        assert len(trained) == 4
    monkeypatch.undo()
    (row, _, _, _), _ = read_rows(tmp_path)
    assert row["final_loss"] is None and row["rank"] == 1 and row["setting"]["steps"] == 2
    only = ["sweep", "--ranks", "1", "--lengths", "4,6", "--steps", "2", "--out", tmp_path]
    code, out, _ = run_command(*only, "--json")
    assert code == 1 and [row["status"] for row in json.loads(out)] == ["oom", "oom"]


def test_a_diverged_cell_is_a_row_and_the_sweep_goes_on(tmp_path, trained, monkeypatch):
    wild = ["sweep", "--ranks", "1,2", "--lengths", "4,6", "--steps", "12", "--lr", "1e5"]
    wild += ["--out", tmp_path]
    for _ in range(2):
        code, out, err = run_command(*wild, "--json")
        assert code == 1 and len(trained) == 4 and "Traceback" not in err
        assert [row["status"] for row in json.loads(out)] == ["diverged"] * 4
    real = probe.train

    def train(model, units, batch, recipes, *more):  # the other cells get a rate that suits them
        return real(model, units, batch, [replace(r, lr=0.05) for r in recipes], *more)

    monkeypatch.setattr(probe, "train", train)
    code, shown, _ = run_command(*wild, "--seeds", "0,1")
    assert code == 0 and len(trained) == 8 and "!" in shown
    assert [row["status"] for row in rows_of(tmp_path)] == ["diverged"] * 4 + ["ok"] * 4
