"""Units from strangers, as `tinymem recall` opens them: whatever the header says, it is one line.

The mutations are seeded. An error must be a TinymemError of one line, and what is accepted must be
shown without an error.
"""

import copy
import json
import os
import random
import time

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from tests.toy import toy_memory, toy_model
from tinymem.base.checkpoint import SHIPPED, open_checkpoint
from tinymem.cli import probe, source
from tinymem.data.memory import check_fits
from tinymem.errors import AdapterError, TinymemError
from tinymem.experiment.probe import memorize
from tinymem.experiment.report import Report, recall_report
from tinymem.experiment.saved import read_run, save_run
from tinymem.files import json_text
from tinymem.show.report import show_recall
from tinymem.training.recipe import Recipe
from tinymem.unit.adapter import OWN_FILE, load_adapter

NAN, INF = float("nan"), float("inf")
DEEP: list = []
for _ in range(90):
    DEEP = [DEEP]
VALUES = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.5, 1e300, NAN, INF),
    *(
        "",
        "0",
        "ok",
        "tiny",
        "x" * 10**5,
        "\x1b]0;title\x07",
        "[/]",
        "[link=http://a]b",
        "{x}",
        "%s",
    ),
    *("\ud800", "\u202e", "a\nb", [], {}, [[]], [None], [1.5], ["a"], [-1], [10**30], DEEP),
    *({"a": 1}, {"rank": DEEP}, [0] * 2000, [{}], [{"prompt_ids": [1], "target_ids": [2]}] * 3),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, tensors, header, model, verdict) of a saved run on a toy model."""
    folder, model = tmp_path_factory.mktemp("units") / "run", toy_model()
    recipe = Recipe(rank=2, steps=3, lr=0.05)
    result = memorize(model, [toy_memory(6), toy_memory(3, seed=1)], recipe=recipe)
    save_run(result, model, recipe, folder)
    with safe_open(folder / OWN_FILE, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        about = json.loads(file.metadata()["tinymem"])
    return folder, tensors, about, model, result.verdict


def recall(run, header):
    """All that `tinymem recall` does with a header, but without weights and forward passes."""
    folder, tensors, _, model, verdict = run
    save_file(tensors, folder / OWN_FILE, {"tinymem": header})
    memories, report = read_run(folder)
    source.find_base(report, folder, model="")
    load_adapter(model, folder).detach()
    check_fits(memories, model.config)
    again = recall_report(report, memories, verdict, model)
    show_recall(again, memories[0], verdict, open_checkpoint("tiny").tokenizer)
    return json_text(again)


def places(value, *path):
    """Every place of a JSON value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)):
        if isinstance(value[key], dict | list):
            yield from places(value[key], *path, key)
        else:
            yield (*path, key)


def mutated(about, random):
    """One or two places removed, or replaced by what does not belong there."""
    about = copy.deepcopy(about)
    for _ in range(random.choice((1, 1, 2))):
        *path, last = random.choice([place for place in places(about) if place])
        here = about
        for key in path:
            here = here[key]
        if random.random() < 0.2:
            del here[last]
        else:
            here[last] = copy.deepcopy(random.choice(VALUES))
        if random.random() < 0.1 and isinstance(here, dict):
            here[f"new{random.random()}"] = copy.deepcopy(random.choice(VALUES))
    return about


def test_the_unit_itself_is_shown(run, capsys):
    recall(run, json.dumps(run[2]))
    assert "9 tokens in 2 memories" in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_header_says_is_shown_or_refused_in_one_line(run, monkeypatch, capsys, seed):
    tokenizer = open_checkpoint("tiny")
    monkeypatch.setattr(f"{__name__}.open_checkpoint", lambda _: tokenizer)
    generator, refusals = random.Random(seed), 0
    for _ in range(60):
        about = mutated(run[2], generator)
        try:
            text = recall(run, json.dumps(about))
        except TinymemError as error:
            refusals += 1
            assert "\n" not in str(error) and len(str(error)) < 1000
        else:
            assert json.loads(text)["model"] and "\x1b" not in capsys.readouterr().out
    assert 20 < refusals < 60  # some changes are harmless


@pytest.mark.parametrize("name", [*Report.__annotations__])
def test_every_field_of_the_report_is_checked(run, name, capsys):
    """Of a type that it never has; absent it is unknown, or refused if a run always knows it."""
    for value in ({}, [["x"]], 10**400, "\x1b[2J", -5.5):
        about = copy.deepcopy(run[2])
        about["report"][name] = value
        if isinstance(value, float) and "float" in str(Report.__annotations__[name]):
            continue
        with pytest.raises(AdapterError, match=f"the report's {name} is"):
            recall(run, json.dumps(about))
    about = copy.deepcopy(run[2])
    del about["report"][name]
    try:
        recall(run, json.dumps(about))
    except AdapterError as error:
        assert f"the report's {name} is None" in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("status", "failed"), ("status", "[/]"), ("method", "dpo"), ("method", "[link=x]y")),
        *(("optimizer", "sgd"), ("dtype", "int8"), ("site", "[/]"), ("site", ""), ("site", "a b")),
        *(("trainable_parameters", 0), ("rank", 0), ("length", 0), ("memories", 0)),
        *(("exact_match", 1.5), ("certified_fraction", -0.1), ("held_out_memories", 3)),
        *(("model", "a\x00b"), ("version", "\x9b31m"), ("device", "cpu\n"), ("model", "\u202e")),
    ],
)
def test_values_that_no_run_writes(run, name, value):
    """Of the right type, but not one of the words, or out of range, or not for a terminal."""
    about = copy.deepcopy(run[2])
    about["report"][name] = value
    with pytest.raises(AdapterError, match="the report's"):
        recall(run, json.dumps(about))


WHOLE = {
    "text": "no JSON",
    "empty": "",
    "null": "null",
    "list": "[]",
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "digits": '{"format_version": ' + "9" * 100_000 + "}",
    "large": '{"a": "' + "x" * 33_000_000 + '"}',
    "no report": '{"format_version": 1}',
}


@pytest.mark.parametrize("header", WHOLE.values(), ids=WHOLE)
def test_headers_that_are_no_header(run, header):
    start = time.monotonic()
    with pytest.raises(AdapterError) as caught:
        recall(run, header)
    assert "\n" not in str(caught.value) and time.monotonic() - start < 5
    assert ("a header of more than" in str(caught.value)) == (len(header) > 10**7)


# --- The base that a unit names ------------------------------------------------------------------

BASES = ["/dev/zero", "/etc", "/proc/self", "..", "../tiny", "a/../../b", "//host/share", "/", "."]
BASES += [
    "\\\\host\\share",
    "https://a.b/c",
    "file:///etc",
    "a/b/c",
    "a b",
    "~root",
    "",
    "-x",
    "a\nb",
]
BASES += ["org/..", "org/.hidden", "x" * 4000, "/" + "x" * 4000, "org/na\u202eme", "%s", "a@b"]


def test_a_base_that_a_unit_may_not_name(run, tmp_path, monkeypatch):
    """Nothing is opened. With --model it is recalled nevertheless, if the weights are the same."""
    monkeypatch.setattr(probe, "open_checkpoint", lambda *_: pytest.fail("opened"))
    (tmp_path / "folder").mkdir()  # not a checkpoint's
    roundabout = f"{SHIPPED['tiny']}/../{SHIPPED['tiny'].name}"
    for name in (*BASES, str(tmp_path / "folder"), roundabout):
        about = copy.deepcopy(run[2])
        about["report"]["model"] = name
        with pytest.raises(AdapterError, match=r"--model|the report's model is"):
            recall(run, json.dumps(about))
    for revision in ("../../x", "/etc/passwd", "a/../b", ".", "-x", "a b", "x..y"):
        about = copy.deepcopy(run[2])
        about["report"] |= {"model": "org/name", "revision": revision}
        with pytest.raises(AdapterError, match="--revision"):
            recall(run, json.dumps(about))


def test_the_base_that_a_unit_names_is_shown_first(tinymem, tmp_path, monkeypatch):
    out, elsewhere = tmp_path / "run", tmp_path / "moved"
    elsewhere.symlink_to(probe.open_checkpoint("tiny").folder)
    args = "--length", "6", "--rank", "2", "--steps", "3", "--out", out
    assert tinymem("probe", "--model", elsewhere, *args)[0] == 0
    code, shown, err = tinymem("recall", out, "--json")
    assert code == 0 and err.startswith(f"base model of this unit: {elsewhere}\n")
    assert json.loads(shown)["agrees"]
    assert "base model" not in tinymem("recall", out, "--model", "tiny")[2]
    elsewhere.unlink()
    code, shown, err = tinymem("recall", out)
    assert (
        code == 2 and shown == "" and err.count("\n") == 1 and "give the base with --model" in err
    )
    for name, revision in (("gpt2", None), ("org/na.me-1", "refs/pr/3"), ("tiny", "v1.0")):
        report = {"model": name, "revision": revision}
        assert source.find_base(report, out, model="") == (name, revision)


def test_the_file_of_a_unit_is_a_file_in_its_folder(run, tmp_path):
    """No link out of the folder, no pipe, no device."""
    folder = run[0]
    for number, place in enumerate((folder / OWN_FILE, "/dev/zero", "/dev/null", "nowhere")):
        home = tmp_path / str(number)
        home.mkdir()
        (home / OWN_FILE).symlink_to(place)
        with pytest.raises(AdapterError, match=OWN_FILE):
            read_run(home)
    if hasattr(os, "mkfifo"):
        (tmp_path / "pipe").mkdir()
        os.mkfifo(tmp_path / "pipe" / OWN_FILE)
        with pytest.raises(AdapterError, match="not a regular file"):
            read_run(tmp_path / "pipe")
    (tmp_path / "folder" / OWN_FILE).mkdir(parents=True)
    with pytest.raises(AdapterError, match="not a regular file"):
        read_run(tmp_path / "folder")
