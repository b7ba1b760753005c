"""`tinymem fit` and `plan`, as a user types them."""

import json
import random
import subprocess
import sys

import pytest

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


def test_fit_prints_the_contracts_fields_as_json(tinymem, grid):
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


def test_fit_without_the_offset(tinymem, grid):
    law = json.loads(tinymem("fit", grid, "--no-offset", "--json")[1])
    assert (
        law["b"] == 0
        and law["offset"] is False
        and law["r2"] < json.loads(tinymem("fit", grid, "--json")[1])["r2"]
    )


def test_fit_shows_a_table_and_draws(tinymem, grid, tmp_path):
    code, out, _ = tinymem("fit", grid, "--plot", tmp_path / "law.png")
    assert code == 0 and (tmp_path / "law.png").read_bytes()[:4] == b"\x89PNG"
    for word in ("ΔL =", "power law", "constant bits", "left out", "saturated"):
        assert word in out


def test_rows_written_by_hand(tinymem, tmp_path):
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
        ("[1]\n", "line 1: not a JSON object"),
        ('{"rank": 1, "length": 4, "delta_loss": 1}\n' * 8, "at least 3 different ranks"),
        ('{"rank": 1, "length": 4}\n', "delta_loss"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(tinymem, tmp_path, content, words):
    (tmp_path / "results.jsonl").write_text(content)
    code, out, err = tinymem("fit", tmp_path)
    assert code == 2 and words in err and err.count("\n") == 1 and not out


def test_fit_of_nothing(tinymem, tmp_path):
    code, _, err = tinymem("fit", tmp_path / "nowhere")
    assert code == 2 and "nowhere" in err and err.count("\n") == 1


def test_plan_for_a_length_a_rank_and_a_loss(tinymem, grid):
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
    surer = ["plan", grid, "--rank", plan["rank"], "--loss", 5.0, "--probability", 0.999, "--json"]
    assert json.loads(tinymem(*surer)[1])["length"] < back["length"]
    code, out, _ = tinymem("plan", grid, "--length", 4000)
    assert code == 0 and "careful" in out and "outside the measured 16 to 128" in out


def test_plan_counts_a_text_itself(tinymem, grid, tmp_path):
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


def test_a_text_is_measured_as_the_sweep_was(tinymem, grid, tmp_path, chatty):
    """With the base model, the prompt and the chat template that the rows name."""
    import tinymem as tm

    (tmp_path / "text.txt").write_text("A memory that nobody wrote down before.")
    model, tokenizer = tm.load(chatty)
    lines = (grid / "results.jsonl").read_text().splitlines()[:16]
    for prompt, chat in (("Sing:", True), ("Sing:", False)):
        setting = {"model": str(chatty), "setting": {"prompt": prompt, "chat": chat}}
        rows = [json.dumps(json.loads(line) | setting) for line in lines]
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        options = ["--text", tmp_path / "text.txt", "--loss", 2.0, "--json"]
        plan = json.loads(tinymem("plan", tmp_path / "rows.jsonl", *options)[1])
        memory = tm.text_memory(
            tokenizer, (tmp_path / "text.txt").read_text(), prompt=prompt, chat=chat
        )
        assert plan["base_loss"] == pytest.approx(tm.judge(model, memory).loss, abs=1e-4)


def test_a_plan_without_the_offset_is_another(tinymem, grid):
    options = ["plan", grid, "--rank", 4, "--loss", 0.3, "--json"]
    with_offset, without = (
        json.loads(tinymem(*options, *more)[1]) for more in ([], ["--no-offset"])
    )
    assert with_offset["interval"] != without["interval"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give exactly one of --length, --rank and --text"),
        (["--length", "5", "--rank", "2"], "give exactly one of"),
        (["--length", "0"], "length is 0; expected a whole number from 1"),
        (["--length", "9", "--method", "memft-ot"], "no law of method 'memft-ot'"),
        (["--length", "9", "--loss", "-1"], "nats per token"),
        (["--length", "9", "--probability", "1"], "probability is 1.0; expected a number between"),
    ],
)
def test_plans_that_make_no_sense(tinymem, grid, args, words):
    code, out, err = tinymem("plan", grid, *args)
    assert code == 2 and words in err and not out


def test_the_laws_do_not_wait_for_torch(grid):
    code = """
import sys
sys.argv = ["tinymem", "plan", sys.argv[1], "--length", "100", "--json"]
from tinymem.cli.app import main
try:
    main()
finally:
    sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, grid], capture_output=True, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["asked"] == "rank"


@pytest.fixture
def recited(tmp_path):
    """Rows of two ranks without a power law: 20 tokens per rank are recited, 30 are not."""
    rows = [
        {"rank": rank, "length": rank * load, "delta_loss": 5.0, "recall_exact": load <= 20}
        | {"trainable_parameters": 512 * rank, "entropy": 7.6, "ratio": 100, "method": method}
        | {"model": "tiny"}
        for method, rank in (("sft", 2), ("sft", 4), ("margin", 2))
        for load in (5, 10, 15, 20, 30, 40, 50)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "rows.jsonl"


def test_fit_without_a_power_law_prints_and_draws_the_recall_law(tinymem, recited, tmp_path):
    code, out, _ = tinymem("fit", recited, "--plot", tmp_path / "a.png")
    assert code == 0 and "No power law: the law needs at least 3 different ranks" in out
    assert "so many tokens whole" in out and (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    law = json.loads(tinymem("fit", recited, "--json")[1])
    assert 40 < law["recall"]["length_50"]["2"] < 60 and "3 different ranks" in law["reason"]
    assert law["recall"]["ci"]["s"][1] is None  # separated: no end


def test_plan_recite(tinymem, recited):
    plan = json.loads(tinymem("plan", recited, "--length", 60, "--recite", 0.9, "--json")[1])
    assert plan["rank"] in (3, 4, 5) and plan["probability"] >= 0.9 and plan["recite"] == 0.9
    back = json.loads(tinymem("plan", recited, "--rank", 3, "--recite", 0.5, "--json")[1])
    assert 60 < back["length"] < 90
    code, out, _ = tinymem("plan", recited, "--length", 60, "--recite", 0.9)
    assert code == 0 and out.startswith(
        f"Rank {plan['rank']} recites 60 tokens word for word, in 9"
    )
    code, out, _ = tinymem("plan", recited, "--rank", 3, "--recite", 0.5)
    assert out.startswith(f"Rank 3 recites {back['length']} tokens word for word, in 5")
    one = tinymem("plan", recited, "--rank", 2, "--recite", 0.9, "--method", "margin")[1]
    assert "by the recall law of tiny, margin" in one


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--length", "9"], "3 different ranks"),  # a plan by the power law, which is not there
        (["--length", "9", "--recite", "1"], "between 0 and 1"),
        (["--length", "9", "--recite", "0.9", "--loss", "1"], "give one of the two"),
    ],
)
def test_recitals_that_make_no_sense(tinymem, recited, args, words):
    code, out, err = tinymem("plan", recited, *args)
    assert code == 2 and words in err and err.count("\n") == 1 and not out


def test_plan_recite_for_a_text(tinymem, recited, tmp_path):
    (tmp_path / "text.txt").write_text("A memory of a few words.")
    plan = json.loads(
        tinymem("plan", recited, "--text", tmp_path / "text.txt", "--recite", 0.9, "--json")[1]
    )
    assert plan["rank"] == 1 and "the runs recited 100 % random tokens, not 0 %" in plan["warnings"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": 3}, "line 1: model is 3; expected text"),
        ({"model": "../else"}, "names the base model '../else', neither a hub id nor"),
        ({"model": "//host/share"}, "give the base with --model"),
        ({"revision": "a..b"}, "names the revision 'a..b'"),
        ({"revision": ["main"]}, "line 1: revision is ['main']; expected text"),
        ({"setting": [1]}, "line 1: setting is [1]; expected an object"),
        ({"setting": {"prompt": 5}}, "line 1: prompt is 5; expected text"),
        ({"dtype": "float99"}, "float99"),
    ],
)
def test_rows_do_not_choose_freely_what_measures_a_text(tinymem, grid, tmp_path, change, words):
    lines = (grid / "results.jsonl").read_text().splitlines()[:16]
    rows = ",\n".join(json.dumps(json.loads(line) | change) for line in lines)
    (tmp_path / "rows.json").write_text(f"[{rows}]")
    (tmp_path / "text.txt").write_text("A few words.")
    args = ["plan", tmp_path / "rows.json", "--text", tmp_path / "text.txt", "--loss", 2]
    code, out, err = tinymem(*args)
    *first, last = err.splitlines()
    assert code == 2 and words in last and not out
    assert first in ([], ["base model of these rows: tiny"])


def test_the_base_model_that_measures_a_text_is_shown(tinymem, grid, tmp_path):
    (tmp_path / "text.txt").write_text("A few words.")
    args = ["plan", grid, "--text", tmp_path / "text.txt", "--loss", 2, "--json"]
    code, out, err = tinymem(*args)
    assert code == 0 and "base model of these rows: tiny\n" in err and json.loads(out)["length"]
    assert "base model" not in tinymem(*args, "--model", "tiny")[2]
