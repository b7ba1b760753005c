"""`tinymem fit`, `plan` and `data`, as a user types them."""

import json
import random
import sys

import pytest

from tests.cli.test_cli import tinymem  # noqa: F401  (the fixture)

C, ALPHA, BETA, B = 14.0, 0.5, 0.4, 0.8


@pytest.fixture
def grid(tmp_path):
    """Rows of a planted law on disk, with what a plan needs; a torn line at the end."""
    noise, lines = random.Random(0), []
    for rank in (1, 2, 4, 8):
        for length in (16, 32, 64, 128):
            delta = min(C * rank**ALPHA * length**-BETA * (1 + noise.gauss(0, 0.01)) + B, 11.8)
            row = {
                "rank": rank,
                "length": length,
                "delta_loss": delta,
                "base_loss": 12.0,
                "ratio": 100,
            }
            row |= {
                "final_loss": 12.0 - delta,
                "certified": delta > 11.4,
                "method": "sft",
                "model": "tiny",
            }
            row |= {
                "trainable_parameters": 512 * rank,
                "entropy": 7.6,
                "status": "ok",
                "converged": True,
            }
            lines.append(json.dumps(row) + "\n")
    (tmp_path / "results.jsonl").write_text("".join(lines) + '{"rank": 3, "len')
    return tmp_path


def test_fit_prints_the_contracts_fields_as_json(tinymem, grid):  # noqa: F811
    code, out, err = tinymem("fit", grid, "--json")
    law = json.loads(out)
    assert code == 0 and "line 17: torn" in err
    assert {"C", "alpha", "beta", "b", "r2", "mape", "n", "n_saturated", "ci"} <= set(law)
    rows = [json.loads(line) for line in (grid / "results.jsonl").read_text().splitlines()[:16]]
    assert law["n_saturated"] == sum(row["final_loss"] <= 0.6931 for row in rows) > 0
    for name, truth in {"C": C, "alpha": ALPHA, "beta": BETA, "b": B}.items():
        low, high = law["ci"][name]
        assert low <= truth <= high, name
    assert law["r2"] > 0.99 and set(law["constant_bits"]) >= {"kappa", "r2", "mape"}
    assert law["groups"][0]["C"] == law["C"] and law["refused"] == {}


def test_fit_without_the_offset(tinymem, grid):  # noqa: F811
    law = json.loads(tinymem("fit", grid, "--no-offset", "--json")[1])
    assert (
        law["b"] == 0
        and law["offset"] is False
        and law["r2"] < json.loads(tinymem("fit", grid, "--json")[1])["r2"]
    )


def test_fit_shows_a_table_and_draws(tinymem, grid, tmp_path):  # noqa: F811
    code, out, _ = tinymem("fit", grid, "--plot", tmp_path / "law.png")
    assert code == 0 and (tmp_path / "law.png").read_bytes()[:4] == b"\x89PNG"
    for word in ("ΔL =", "power law", "constant bits", "left out", "saturated"):
        assert word in out


def test_rows_written_by_hand(tinymem, tmp_path):  # noqa: F811
    rows = [
        {"rank": rank, "length": length, "delta_loss": 8 * rank**0.5 * length**-0.5 + 1}
        for rank in (1, 2, 4)
        for length in (16, 64, 256)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    law = json.loads(tinymem("fit", path, "--json")[1])
    found = [law[name] for name in ("C", "alpha", "beta", "b")]
    assert found == pytest.approx([8, 0.5, 0.5, 1], rel=1e-6)
    path.write_text(
        "\n".join(map(json.dumps, [*rows, {"rank": 2, "length": "x", "delta_loss": 1}]))
    )
    code, _, err = tinymem("fit", path)
    assert code == 2 and "mine.jsonl, line 10: length is 'x'" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no rows"),
        ("nonsense\n", "line 1: not JSON"),
        ("[1]\n", "line 1: expected a JSON object"),
        ('{"rank": 1, "length": 4, "delta_loss": 1}\n' * 8, "at least 3 different ranks"),
        ('{"rank": 1, "length": 4}\n', "delta_loss"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(tinymem, tmp_path, content, words):  # noqa: F811
    (tmp_path / "results.jsonl").write_text(content)
    code, out, err = tinymem("fit", tmp_path)
    assert code == 2 and words in err and err.count("\n") == 1 and not out


def test_fit_of_nothing(tinymem, tmp_path):  # noqa: F811
    code, _, err = tinymem("fit", tmp_path / "nowhere")
    assert code == 2 and "nowhere" in err and err.count("\n") == 1


def test_plan_for_a_length_a_rank_and_a_loss(tinymem, grid):  # noqa: F811
    plan = json.loads(tinymem("plan", grid, "--length", 100, "--loss", 5.0, "--json")[1])
    truth = ((12 - 5 - B) / C * 100**BETA) ** (1 / ALPHA)
    assert (
        plan["interval"][0] <= truth + 1
        and plan["interval"][1] >= truth
        and abs(plan["rank"] - truth) < 2
    )
    assert plan["bytes"] == 4 * plan["parameters"] == 2048 * plan["rank"]
    back = json.loads(tinymem("plan", grid, "--rank", plan["rank"], "--loss", 5.0, "--json")[1])
    assert back["length"] >= 100
    code, out, _ = tinymem("plan", grid, "--length", 4000)
    assert code == 0 and "careful" in out and "outside the measured 16 to 128" in out


def test_plan_counts_a_text_itself(tinymem, grid, tmp_path):  # noqa: F811
    import tinymem as tm

    text = "A memory that nobody wrote down before, in twenty tokens or a few more than that."
    (tmp_path / "text.txt").write_text(text)
    plan = json.loads(
        tinymem("plan", grid, "--text", tmp_path / "text.txt", "--loss", 2.0, "--json")[1]
    )
    model, tokenizer = tm.load("tiny")
    memory = tm.text_memory(tokenizer, text)
    assert plan["length"] == memory.length
    assert plan["base_loss"] == pytest.approx(tm.judge(model, memory).loss, abs=1e-4)
    assert any("random tokens" in warning for warning in plan["warnings"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give one of --length, --rank and --text"),
        (["--length", "5", "--rank", "2"], "give one of"),
        (["--length", "0"], "--length is 0"),
        (["--length", "9", "--method", "memft-ot"], "no law of method 'memft-ot'"),
        (["--length", "9", "--loss", "-1"], "nats per token"),
    ],
)
def test_plans_that_make_no_sense(tinymem, grid, args, words):  # noqa: F811
    code, out, err = tinymem("plan", grid, *args)
    assert code == 2 and words in err and not out


def test_fit_does_not_wait_for_torch():
    import subprocess

    code = "import sys, tinymem.law.fit, tinymem.law.plan, tinymem.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_is_written_and_read_back(tinymem, tmp_path):  # noqa: F811
    for kind, options in {
        "random": ["--length", "9"],
        "phonebook": ["--count", "3"],
        "long-context": ["--text", tmp_path / "text", "--length", "6", "--ratios", "0,50"],
    }.items():
        (tmp_path / "text").write_text("It was a dark and stormy night in the harbour town.")
        code, printed, _ = tinymem("data", kind, *options)
        assert code == 0 and all(json.loads(line) for line in printed.splitlines())
        code, nothing, err = tinymem("data", kind, *options, "--out", tmp_path / "rows.jsonl")
        assert code == 0 and not nothing and "memories in" in err
        assert (tmp_path / "rows.jsonl").read_text() == printed
        assert tinymem("probe", "--data", tmp_path / "rows.jsonl", "--steps", "1", "--json")[0] == 0


def test_the_rule_and_its_held_out_pairs(tinymem, tmp_path):  # noqa: F811
    code, _, _ = tinymem(
        "data", "rule", "--count", 6, "--held-out", 4, "--out", tmp_path / "rule.jsonl"
    )
    held = tmp_path / "rule.held-out.jsonl"
    assert code == 0 and len(held.read_text().splitlines()) == 4
    options = ["--held-out", held, "--steps", "2", "--json"]
    report = json.loads(tinymem("probe", "--data", tmp_path / "rule.jsonl", *options)[1])
    assert (report["memories"], report["held_out_memories"]) == (6, 4)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "Missing command"),
        (["random", "--length", "0"], "length is 0"),
        (["phonebook", "--count", "99999"], "only 20480 names"),
        (["rule", "--count", "101", "--limit", "10", "--out", "x"], "there are 100"),
        (["long-context", "--text", "nowhere.txt"], "nowhere.txt"),
        (["phonebook", "--out", "no/such/folder/x"], "not a folder"),
    ],
)
def test_data_that_cannot_be_had_is_one_line(tinymem, args, words):  # noqa: F811
    code, out, err = tinymem("data", *args)
    assert code == 2 and words in err and err.count("\n") == 1 and not out
