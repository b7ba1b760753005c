"""The verdict on the screen: what is printed is what the report and the verdict say."""

import re

import pytest

from tinymem.data.memory import Memory
from tinymem.experiment.recall import Verdict
from tinymem.show.report import (
    MOST_STUBBORN,
    SHOW_ALL,
    headline,
    number,
    row_line,
    show_recall,
    show_report,
    show_tokens,
    target_text,
)

REPORT = {
    **{"model": "tiny", "layer": 2, "site": "mlp", "rank": 8, "trainable_parameters": 4096},
    **{"length": 128, "ratio": 100, "memories": 1, "method": "sft", "steps": 2000, "lr": 0.1},
    **{
        "seed": 0,
        "device": "cpu",
        "dtype": "float32",
        "status": "ok",
        "converged": True,
        "ended": "steps",
    },
    **{"base_loss": 12.5451, "final_loss": 0.2792, "stored_bits": 2265.4},
    **{"bits_per_parameter": 0.553, "memorized_bits": 1356.2},
    **{"memorized_bits_per_parameter": 0.331, "certified_fraction": 1.0, "certified": True},
    **{"recall_exact": True, "exact_match": 1.0, "token_accuracy": 1.0, "first_error": None},
    **{"min_probability": 0.609, "held_out_memories": 0, "held_out_exact_match": None},
    **{"verbatim": True, "thin": False, "argmax_accuracy": 1.0, "min_margin": 0.716},
    **{"readout_temperature": None, "calibrated_loss": None},
    **{"calibrated_bits_per_parameter": 0.344},
}
FAILED = {
    **{"certified": False, "verbatim": False, "recall_exact": False, "first_error": 3},
    **{"certified_fraction": 0.5, "argmax_accuracy": 0.75, "token_accuracy": 0.25},
    **{"min_margin": -1.5, "readout_temperature": 0.4222, "calibrated_loss": 1.5786},
}


class Words:
    """A tokenizer of which every token is a word of its own."""

    def __init__(self, **special: str):
        self.special = {int(name[1:]): text for name, text in special.items()}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.special.get(i, f" w{i}") for i in ids)


def verdict(p: list[float], instead: dict[int, int] | None = None, lengths=()) -> Verdict:
    """Token t of the target is t. instead: the wrong argmaxes; margins are p, or p − 1 there."""
    ids, instead = list(range(len(p))), instead or {}
    margins = [value - (t in instead) for t, value in enumerate(p)]
    parts = {"losses": [0.0] * len(p), "targets": ids, "probabilities": p, "decoded": ids}
    parts |= {"predicted": [instead.get(t, t) for t in ids], "margins": margins}
    return Verdict(lengths=list(lengths) or [len(p)], **parts)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0.000"), (0.001, "0.001"), (0.00083, "8e-04"), (12.5451, "12.545")],
)
def test_numbers_keep_three_decimals_or_one_digit(value, text):
    assert number(value) == text


def test_a_report_by_hand(capsys):
    show_report(REPORT)
    assert capsys.readouterr().out.splitlines() == [
        "tiny, layer 2, site mlp, rank 8: 4,096 parameters",
        "128 random tokens; sft, 2,000 steps, learning rate 0.1, seed 0, cpu float32",
        "loss        12.545 → 0.279 nats per token",
        "stored      2,265 bits, 0.55 bits per parameter",
        "memorized   1,356 bits, 0.33 bits per parameter",
        "recited     1,409 bits, 0.34 bits per parameter",
        "margin > 0  128 of 128 tokens, lowest 0.716 logits",
        "p > ½       128 of 128 tokens, lowest p 0.609",
        "recall      128 of 128 tokens right when decoding, exact",
        "Recited: proof from one pass, lowest margin 0.716 logits",
        "Certified: every p > ½, the paper's stronger proof",
    ]


def test_a_report_of_a_run_that_failed(capsys):
    """Bits at the readout temperature too; no more is said of the certificate than a count."""
    show_report(REPORT | FAILED)
    assert capsys.readouterr().out.splitlines()[4:] == [
        "memorized   1,356 bits, 0.33 bits per parameter",
        "readout     1.579 nats per token at temperature 0.422, 0.34 bits per parameter",
        "margin > 0  96 of 128 tokens, lowest -1.500 logits",
        "p > ½       64 of 128 tokens, lowest p 0.609",
        "recall      32 of 128 tokens right when decoding, first error at position 3",
        "Not recited: 32 of 128 argmaxes are wrong, first error at position 3",
    ]


def test_a_report_of_many_memories_of_text(capsys):
    many = {"memories": 20, "exact_match": 0.75, "ratio": 0, "layer": [1, 3], "lr": None}
    many |= {"held_out_memories": 5, "held_out_exact_match": 0.2, "converged": False}
    many |= {"memorized_bits_per_parameter": None, "calibrated_bits_per_parameter": None}
    show_report(REPORT | FAILED | many | {"first_error": 0, "final_loss": 2.5})
    out = capsys.readouterr().out
    assert "layers 1, 3, site mlp" in out and "128 tokens of text in 20 memories" in out
    assert "L-BFGS" in out and "memorized" not in out and "2.500 nats per token, not conv" in out
    assert "64 of 128 tokens, lowest p" in out
    assert "32 of 128 tokens right when decoding, first error at position 0\n" in out
    assert "readout     1.579 nats per token at temperature 0.422\n" in out
    assert "memories    15 of 20 memories recited whole\n" in out
    assert "held out    1 of 5 memories recited whole\n" in out


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {},
            "Recited[/]: proof from one pass, lowest margin 0.716 logits\n[bold green]Certified[/]",
        ),
        ({"certified": False}, "Recited[/]: proof from one pass, lowest margin 0.716 logits"),
        (
            {"thin": True, "min_margin": 2e-5},
            "Recited, but thin[/]: float32 rounding can undo the lowest",
        ),
        (FAILED, "Not recited[/]: 32 of 128 argmaxes are wrong, first error at position 3"),
        ({"recall_exact": False, "min_margin": 2e-7}, "Undecided[/]"),
        (
            {"verbatim": False, "min_margin": -2e-7},
            "decoding differ by rounding, lowest margin -2e-07",
        ),
        ({"status": "diverged", "certified_fraction": None}, "Diverged"),
        ({"status": "oom", "certified_fraction": None}, "Out of memory"),
        ({"status": "interrupted", "certified_fraction": None}, "before the verdict"),
        ({"status": "interrupted", "certified": False}, "Recited[/]: proof"),
    ],
)
def test_the_headline(fields, words):
    line = headline(REPORT | fields)
    assert words in line
    assert ("Interrupted[/] after 2,000 steps" in line) == ("interrupted" in fields.values())
    assert "certified" not in line and len(line.splitlines()) <= 2


@pytest.mark.parametrize("fields", [{}, {"thin": True}, FAILED, {"recall_exact": False}])
def test_no_line_of_a_report_is_wider_than_a_terminal(capsys, fields):
    long = {"length": 12800, "min_margin": 0.54321, "first_error": 12799, "dtype": "bfloat16"}
    show_report(REPORT | fields | long)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_run_without_a_verdict_shows_only_the_base_loss(capsys):
    names = ("bits_per_parameter", "memorized_bits_per_parameter", "certified_fraction")
    names += ("calibrated_bits_per_parameter", "final_loss")
    show_report(REPORT | dict.fromkeys(names) | {"status": "oom", "converged": False})
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "loss        12.545 nats per token without the unit",
        "Out of memory: use a shorter target or a smaller base model",
    ]


def test_model_names_are_not_read_as_colours(capsys):
    show_report(REPORT | {"model": "[red]x[/]"})
    assert capsys.readouterr().out.startswith("[red]x[/], layer 2")


def test_tokens_are_coloured_and_wrong_ones_bracketed():
    text = target_text(verdict([0.9, 0.5, 0.1, 0.51, 0.3], {2: 77, 3: 77}), Words())
    assert text.plain == " w0 w1‹ w2›‹ w3› w4"
    colours = {text.plain[span.start : span.end]: span.style for span in text.spans}
    assert colours[" w0"] == "green"
    assert colours[" w1"] == colours[" w4"] == "yellow"  # right, with p ≤ ½
    assert colours["‹ w2›"] == colours["‹ w3›"] == "bold red"


def test_each_memory_has_a_line_and_control_characters_are_visible():
    words = Words(t1="\n", t2="\x1b[31m")
    assert target_text(verdict([0.9] * 5, lengths=(2, 3)), words).plain == " w0⏎\n·[31m w3 w4"


def test_of_a_long_target_only_the_surroundings_of_wrong_tokens_are_shown():
    p = [0.9] * (SHOW_ALL + 44)
    p[50] = 0.2  # right, so that nothing of it need be shown
    assert target_text(verdict(p), Words()).plain == ""
    text = target_text(verdict(p, {100: 7}), Words()).plain
    assert text.startswith(" …  w92") and text.endswith(" w108 …") and "‹ w100›" in text


def test_wrong_tokens_come_first_those_with_the_lowest_margin_before_all(capsys):
    p = [0.9, *(0.4 - 0.01 * t for t in range(12))]
    show_tokens(verdict(p, {2: 77, 5: 1}), Words())
    out = capsys.readouterr().out
    title = "2 wrong argmaxes, 10 right tokens with p ≤ ½ (not certified); the first 10:"
    assert title in out.splitlines()
    rows = [line.split() for line in out.splitlines()[-MOST_STUBBORN:]]
    assert [row[0] for row in rows] == ["5", "2", *map(str, (12, 11, 10, 9, 8, 7, 6, 4))]
    assert rows[1] == ["2", "␣w2", "␣w77", "-0.610", "0.390"]
    assert rows[2] == ["12", "␣w12", "the", "same", "0.290", "0.290"]


def test_of_a_recited_target_the_table_has_what_is_not_certified(capsys):
    show_tokens(verdict([0.9, 0.9, 0.9, 0.3], lengths=(2, 2)), Words())
    out = capsys.readouterr().out
    assert "\n1 right token with p ≤ ½ (not certified):\n" in out and "wrong" not in out
    row = out.splitlines()[-1].split()
    assert row == ["1", "of", "memory", "1", "␣w3", "the", "same", "0.300", "0.300"]


def test_certified_targets_have_no_table(capsys):
    show_tokens(verdict([0.9, 0.8]), Words())
    out = capsys.readouterr().out
    assert " w0 w1" in out and "position" not in out


@pytest.mark.parametrize(("agrees", "words"), [(True, "As reported"), (False, "Not as reported")])
def test_recall_shows_what_was_recited_and_whether_it_agrees(capsys, agrees, words):
    first = Memory((7, 8), (0, 1))  # of two memories
    show_recall(REPORT | {"agrees": agrees}, first, verdict([0.9] * 3, lengths=(2, 1)), Words())
    out = capsys.readouterr().out
    assert f"\n{words}:" in out
    assert out.endswith("prompt   ' w7 w8'\nrecited  ' w0 w1'\n")


def test_a_cell_says_whether_it_is_recited_and_certified():
    for certified, word in ((True, "certified"), (False, "recited")):
        line = row_line(REPORT | {"certified": certified, "wall_seconds": 1})
        assert f"→ [bold]0.279[/], [green]{word}[/], 1 s" in line
    line = row_line(REPORT | FAILED | {"wall_seconds": 1})
    assert "recited" not in line and "certified" not in line


def test_a_cell_that_failed_says_how():
    row = REPORT | {"status": "diverged", "ratio": 40}
    line = "rank   8, length  128, 40 % random, sft, seed 0: [bold red]diverged[/]"
    assert row_line(row) == line


@pytest.mark.parametrize("ended", ["recited", "certified", "still", "steps", None])
def test_a_run_that_ended_early_says_why_and_that_its_bits_are_lower_bounds(capsys, ended):
    early = ended not in ("steps", None)
    recited = {"readout_temperature": None, "calibrated_bits_per_parameter": 0.25}
    show_report(REPORT | recited | {"ended": ended, "converged": False})
    text = capsys.readouterr().out
    assert ("ended       early: " in text) == early == ("at least " in text)
    assert ("not converged" in text) != early
    assert re.search(r"^recited     \d", text, re.MULTILINE)  # all of a recited memory is there


def test_layers_that_follow_one_another_are_named_in_short(capsys):
    for layers, words in (([3, 7], "layers 3, 7,"), (list(range(30)), "layers 0 to 29,")):
        show_report(REPORT | {"layer": layers, "site": "q_proj"})
        assert words in capsys.readouterr().out
