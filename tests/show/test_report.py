"""The verdict on the screen: what is printed is what the report and the verdict say."""

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
    **{"seed": 0, "device": "cpu", "dtype": "float32", "status": "ok", "converged": True},
    **{"base_loss": 12.5451, "final_loss": 0.2792, "stored_bits": 2265.4},
    **{"bits_per_parameter": 0.553, "memorized_bits": 1356.2},
    **{"memorized_bits_per_parameter": 0.331, "certified_fraction": 1.0, "certified": True},
    **{"recall_exact": True, "exact_match": 1.0, "token_accuracy": 1.0, "first_error": None},
    **{"min_probability": 0.609, "held_out_memories": 0, "held_out_exact_match": None},
}


class Words:
    """A tokenizer of which every token is a word of its own."""

    def __init__(self, **special: str):
        self.special = {int(name[1:]): text for name, text in special.items()}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.special.get(i, f" w{i}") for i in ids)


def verdict(p: list[float], predicted: list[int] | None = None, lengths=()) -> Verdict:
    """Token t of the target is t."""
    ids = list(range(len(p)))
    parts = {"losses": [0.0] * len(p), "targets": ids, "probabilities": p, "decoded": ids}
    return Verdict(predicted=predicted or ids, lengths=list(lengths) or [len(p)], **parts)


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
        "p > ½       128 of 128 tokens, lowest p 0.609",
        "recall      128 of 128 tokens right when decoding, exact",
        "Certified: every token has p > ½, so greedy decoding recites them all",
    ]


def test_a_report_of_many_memories_of_text(capsys):
    many = {"memories": 20, "exact_match": 0.75, "ratio": 0, "layer": [1, 3], "lr": None}
    many |= {"held_out_memories": 5, "held_out_exact_match": 0.2, "memorized_bits": None}
    many |= {"certified": False, "recall_exact": False, "first_error": 0, "converged": False}
    many |= {"certified_fraction": 0.5, "token_accuracy": 0.25, "final_loss": 2.5}
    show_report(REPORT | many)
    out = capsys.readouterr().out
    assert "layers 1, 3, site mlp" in out and "128 tokens of text in 20 memories" in out
    assert "L-BFGS" in out and "memorized" not in out and "2.500 nats per token, not conv" in out
    assert "64 of 128 tokens, lowest p" in out
    assert "32 of 128 tokens right when decoding, first error at position 0\n" in out
    assert "memories    15 of 20 memories recited whole\n" in out
    assert "held out    1 of 5 memories recited whole\n" in out


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Certified[/]: every token has p > ½"),
        ({"certified": False}, "Recalled[/], not certified"),
        ({"certified": False, "recall_exact": False}, "Not certified[/]: decoding fails"),
        ({"status": "diverged", "certified_fraction": None}, "Diverged"),
        ({"status": "oom", "certified_fraction": None}, "Out of memory"),
        ({"status": "interrupted", "certified_fraction": None}, "There is no verdict"),
    ],
)
def test_the_headline(fields, words):
    line = headline(REPORT | fields)
    assert words in line
    assert ("Interrupted[/] after 2,000 steps. " in line) == ("interrupted" in fields.values())


def test_a_run_without_a_verdict_shows_only_the_base_loss(capsys):
    names = ("stored_bits", "memorized_bits", "certified_fraction", "final_loss")
    show_report(REPORT | dict.fromkeys(names) | {"status": "oom", "converged": False})
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "loss        12.545 → – nats per token, not converged",
        "Out of memory: use a shorter target or a smaller base model",
    ]


def test_model_names_are_not_read_as_colours(capsys):
    show_report(REPORT | {"model": "[red]x[/]"})
    assert capsys.readouterr().out.startswith("[red]x[/], layer 2")


def test_tokens_are_coloured_by_p_and_stubborn_ones_bracketed():
    text = target_text(verdict([0.9, 0.5, 0.1, 0.51]), Words())
    assert text.plain == " w0‹ w1›‹ w2› w3"
    colours = {text.plain[span.start : span.end]: span.style for span in text.spans}
    assert colours[" w0"] == colours[" w3"] == "green"  # p of exactly ½ is not certified
    assert colours["‹ w1›"] == "yellow" and colours["‹ w2›"] == "bold red"


def test_each_memory_has_a_line_and_control_characters_are_visible():
    words = Words(t1="\n", t2="\x1b[31m")
    assert target_text(verdict([0.9] * 5, lengths=(2, 3)), words).plain == " w0⏎\n·[31m w3 w4"


def test_of_a_long_target_only_the_surroundings_of_stubborn_tokens_are_shown():
    p = [0.9] * (SHOW_ALL + 44)
    assert target_text(verdict(p), Words()).plain == ""
    p[100] = 0.2
    text = target_text(verdict(p), Words()).plain
    assert text.startswith(" …  w92") and text.endswith(" w108 …") and "‹ w100›" in text


def test_the_most_stubborn_tokens_come_first(capsys):
    p = [0.9, *(0.4 - 0.01 * t for t in range(12))]
    show_tokens(verdict(p, predicted=[0, 1, 77, *range(3, 13)]), Words())
    out = capsys.readouterr().out
    assert "12 stubborn tokens; the 10 with the lowest p:" in out
    rows = [line.split() for line in out.splitlines()[-MOST_STUBBORN:]]
    assert [row[0] for row in rows] == [str(t) for t in range(12, 2, -1)]
    assert rows[0] == ["12", "␣w12", "the", "same", "0.290"]
    show_tokens(verdict([0.9, 0.3], predicted=[0, 77]), Words())
    assert capsys.readouterr().out.splitlines()[-1].split() == ["1", "␣w1", "␣w77", "0.300"]


def test_positions_count_within_each_memory(capsys):
    show_tokens(verdict([0.9, 0.9, 0.9, 0.3], lengths=(2, 2)), Words())
    out = capsys.readouterr().out
    assert "1 stubborn token:" in out
    assert out.splitlines()[-1].split() == ["1", "of", "memory", "1", "␣w3", "the", "same", "0.300"]


def test_certified_targets_have_no_table(capsys):
    show_tokens(verdict([0.9, 0.8]), Words())
    out = capsys.readouterr().out
    assert " w0 w1" in out and "stubborn" not in out


@pytest.mark.parametrize(("agrees", "words"), [(True, "As reported"), (False, "Not as reported")])
def test_recall_shows_what_was_recited_and_whether_it_agrees(capsys, agrees, words):
    first = Memory((7, 8), (0, 1))  # of two memories
    show_recall(REPORT | {"agrees": agrees}, first, verdict([0.9] * 3, lengths=(2, 1)), Words())
    out = capsys.readouterr().out
    assert f"\n{words}:" in out
    assert out.endswith("prompt   ' w7 w8'\nrecited  ' w0 w1'\n")


def test_a_cell_that_failed_says_how():
    row = REPORT | {"status": "diverged", "ratio": 40}
    line = "rank   8, length  128, 40 % random, sft, seed 0: [bold red]diverged[/]"
    assert row_line(row) == line
