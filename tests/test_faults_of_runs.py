"""Faults 16 to 31: what meets a run, its folder, its download or its rows.

All through the command line: nothing that was finished is lost, nothing half-written is taken for
whole, and the user reads one line. Oracle: the same command without the fault.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import tinymem as tm
from tests.base.test_hub import FILES, without
from tests.checkpoints import build, edit_weights
from tests.experiment.sweeps import (
    command_in_child,
    command_killed_at_rename,
    content_of,
    processes,
    rows_of,
    run_command,
)
from tests.hub_server import PAGE, Hub, Repo
from tests.test_faults import EMBED, refused
from tinymem import system
from tinymem.experiment import probe as probe_module, sweep as sweep_module
from tinymem.training.trainer import Trainer
from tinymem.unit import adapter

ROOT = Path(__file__).parents[1]
QUICK = ("--steps", "3", "--length", "4")
UNIT, REPORT = "unit.safetensors", "report.json"
GRID = ("--ranks", "1,2", "--lengths", "4,6", "--steps", "3")


def probe(folder, *more, quick=QUICK) -> tuple[int, str, str]:
    return run_command("probe", "--model", folder, "--rank", "2", *quick, *more)


def sweep(folder, out, *more) -> tuple[int, str, str]:
    return run_command("sweep", "--model", folder, *GRID, "--out", out, *more)


def names_in(folder: Path) -> set[str]:
    """The files of a run that are for the user."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


# --- Training ------------------------------------------------------------------------------------


def test_fault_16_divergence_is_said_and_a_sweep_goes_on(tmp_path, monkeypatch):
    quick = ("--steps", "60", "--rank", "8", "--length", "64")
    code, out, _ = run_command("probe", *quick, "--lr", "1e5", "--json")
    report = json.loads(out, parse_constant=pytest.fail)  # JSON has no NaN and no Infinity
    assert (code, report["status"], report["recall_exact"]) == (1, "diverged", False)
    real = sweep_module.memorize_together

    def wild(model, memories, recipes, **options):
        recipes = [replace(r, lr=1e5) if r.rank == 8 else r for r in recipes]
        return real(model, memories, recipes, **options)

    monkeypatch.setattr(sweep_module, "memorize_together", wild)
    grid = ("--ranks", "2,8", "--lengths", "64", "--steps", "60")
    code, out, err = run_command("sweep", *grid, "--out", tmp_path / "grid", "--json")
    assert code == 0, err
    assert {(r["rank"], r["status"]) for r in json.loads(out)} == {(2, "ok"), (8, "diverged")}


@pytest.mark.parametrize("rate", ["1e3", "1e5"])
def test_fault_16_a_rate_that_is_far_too_high_is_not_ok(folder, rate):
    code, out, _ = probe(folder, "--lr", rate, "--json", quick=("--steps", "40", "--length", "12"))
    report = json.loads(out)
    gained = report["delta_loss"] is not None and report["delta_loss"] > 0
    assert gained or (code, report["status"]) == (1, "diverged")


@pytest.mark.parametrize("moment", ["__init__", "gradient"])
def test_fault_17_memory_runs_out_once(folder, tmp_path, monkeypatch, moment):
    """The cell is recorded as it ended or run again in halves, and no unit stays in the model."""
    real, calls = getattr(Trainer, moment), itertools.count(1)

    def fails_once(self, *args, **options):
        found = real(self, *args, **options)  # the unit is attached now
        if next(calls) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, moment, fails_once)
        code, out, err = probe(folder, "--json", "--out", tmp_path / "run")
    assert code == 1 and json.loads(out)["status"] == "oom" and "Traceback" not in err
    calls = itertools.count(1)
    monkeypatch.setattr(Trainer, moment, fails_once)
    code, out, err = sweep(folder, tmp_path / "grid", "--json")
    rows = json.loads(out)
    assert code == 0 and "Traceback" not in err and len(rows) == 4
    assert [row["status"] for row in rows].count("ok") >= 3


# --- Kills, disks and folders --------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_fault_18_a_kill_between_the_files_of_a_run(folder, tmp_path):
    """Whatever is in the folder then is not taken for a run, and the same command finishes it."""
    codes = []
    for number in (1, 2, 3):
        out = tmp_path / str(number)
        args = ["probe", "--model", str(folder), "--rank", "2", *QUICK, "--out", str(out)]
        child = processes.Process(target=command_killed_at_rename, args=(number, *args))
        child.start()
        child.join(120)
        codes.append(child.exitcode)
        assert (out / REPORT).exists() == (child.exitcode == 0)
        code, _, err = run_command(*args)
        assert code == 0, err
        assert names_in(out) >= {UNIT, REPORT} and not list(out.glob(".*.safetensors.*"))
        assert run_command("recall", out)[0] == 0
    assert codes.count(-signal.SIGKILL) >= 2


def test_fault_19_a_torn_last_line(folder, tmp_path):
    grid = tmp_path / "grid"
    assert sweep(folder, grid)[0] == 0
    whole, rows = content_of(grid), rows_of(grid)
    for cut in (1, 2, 100):
        (grid / "results.jsonl").write_bytes(whole[:-cut])
        code, out, _ = sweep(folder, grid, "--json")
        assert code == 0 and content_of(grid).startswith(whole[:-cut])
        assert len(rows_of(grid)) == len(rows) == len(json.loads(out))
        fitted = run_command("fit", grid)[2]
        assert ("skipped" in fitted) == (cut > 1)


def test_fault_20_a_full_disk(folder, tmp_path, monkeypatch):
    """The result is shown all the same, and where there is room the same command saves it."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for place, name in ((system, "replace"), (system, "sync"), (adapter, "write_bytes_atomically")):
        out = tmp_path / f"{place.__name__} {name}"
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            code, shown, err = probe(folder, "--json", "--out", out)
        assert code == 1 and json.loads(shown)["status"] == "ok", err
        assert err.startswith("tinymem: ") and err.count("\n") == 1 and "No space" in err
        assert not (out / REPORT).exists()
        assert probe(folder, "--json", "--out", out)[0] == 0 and names_in(out) == {UNIT, REPORT}
    grid = tmp_path / "grid"
    sweep(folder, grid, "--ranks", "1")
    before = content_of(grid)
    with monkeypatch.context() as patch:
        patch.setattr(sweep_module, "append_row", full)
        code, shown, err = sweep(folder, grid)
    assert code == 1 and "No space" in err and "Traceback" not in err
    assert content_of(grid) == before
    assert sweep(folder, grid)[0] == 0 and content_of(grid).startswith(before)


def test_fault_20_a_place_that_cannot_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "run")
    monkeypatch.setattr(probe_module, "train", lambda *_: pytest.fail("trained"))
    for out in ("file", "file/run", "gone/run", "link", "link/run"):
        args = ("--model", folder, "--out", tmp_path / out)
        refused("probe", *QUICK, *args, words=(out.split("/")[0],))
        refused("sweep", *GRID, *args, words=(out.split("/")[0],))
    assert (tmp_path / "file").read_text() == "mine"


def test_fault_21_two_writers_of_one_folder(folder, tmp_path):
    grid, out = tmp_path / "grid", tmp_path / "run"
    grid.mkdir()
    with FileLock(grid / ".lock"):
        code, _, err = sweep(folder, grid)
    assert code == 2 and "another process is writing there" in err and not content_of(grid)
    long = ("--steps", "10000000", "--length", "4", "--out", str(out))
    args = ("probe", "--model", str(folder), *long)
    first = processes.Process(target=command_in_child, args=args, daemon=True)
    first.start()
    try:
        end = time.monotonic() + 60
        while not out.is_dir() or not any(out.iterdir()):
            assert time.monotonic() < end, "the first probe wrote nothing"
            time.sleep(0.05)
        refused("probe", "--model", folder, *QUICK, "--out", out, words=(str(out),))
        assert first.is_alive()
    finally:
        first.kill()


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_fault_22_a_request_to_stop(folder, tmp_path, monkeypatch, how):
    """The run that was stopped is saved, says so, and goes on with the same command."""
    if not hasattr(signal, how):
        pytest.skip(f"this system has no {how}")
    out, calls, real = tmp_path / "run", itertools.count(1), Trainer.gradient
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, getattr(signal, how))}

    def stopped(self, *args, **options):
        if next(calls) == 20:
            signal.raise_signal(getattr(signal, how))
        return real(self, *args, **options)

    quick = ("--full", "--steps", "40", "--length", "4")
    signal.signal(getattr(signal, how), lambda *_: None)  # unless the command sets its own
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "gradient", stopped)
            code, _, err = probe(folder, "--out", out, quick=quick)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert code == 130 and "Traceback" not in err
    code, shown, err = probe(folder, "--out", out, "--json", quick=quick)
    assert code == 0, err
    whole = json.loads(probe(folder, "--json", quick=quick)[1])
    again = json.loads(shown)
    assert {k: v for k, v in again.items() if k != "wall_seconds"} == {
        k: v for k, v in whole.items() if k != "wall_seconds"
    }


def interrupt(*_):
    raise KeyboardInterrupt


def test_fault_23_another_command_for_the_same_folder(folder, tmp_path, monkeypatch):
    grid, run = tmp_path / "grid", tmp_path / "run"
    assert sweep(folder, grid)[0] == 0 and probe(folder, "--out", run)[0] == 0
    old, unit = content_of(grid), (run / UNIT).read_bytes()
    args = ("--model", folder, "--rank", "2", *QUICK, "--out")
    refused("sweep", "--model", folder, *GRID, "--out", grid, "--lr", "0.5", words=("lr was",))
    refused("probe", *args, run, "--lr", "0.5", words=("lr",))
    refused("probe", *args, run, "--steps", "4", words=("steps",))
    refused("probe", *args, run, "--seed", "4", words=("seed",))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "gradient", interrupt)
        assert probe(folder, "--out", tmp_path / "part")[0] == 130
    edit_weights(folder, lambda tensors: tensors[EMBED].add_(1e-3))
    refused("sweep", "--model", folder, *GRID, "--out", grid, words=("base was",))
    refused("probe", *args, tmp_path / "part", words=("base was",))
    assert content_of(grid) == old and (run / UNIT).read_bytes() == unit


# --- The hub -------------------------------------------------------------------------------------

HUB_COMMANDS = """
import contextlib, io, json, os, sys
from tinymem.cli.app import main
for repo, token in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["tinymem", "probe", "--model", repo, "--steps", "2", "--length", "3", "--rank", "1"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            print(json.dumps([end.code, err.getvalue()]), file=sys.__stdout__)
"""


def from_hub(home: Path, endpoint: str, *wanted: tuple[str, str]) -> list[tuple[int, str]]:
    """(exit code, stderr) of `tinymem probe --model REPO` for each (repo, token)."""
    foreign = ("HF_", "HUGGING", "TRANSFORMERS_", "HTTP", "http", "ALL_PROXY", "all_proxy")
    env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    env |= {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    command = [sys.executable, "-c", HUB_COMMANDS, json.dumps(wanted)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(answers) == len(wanted)
    for code, err in answers:
        assert code == 0 or (err.startswith("tinymem: ") and err.count("\n") == 1), err
    return answers


def test_fault_24_downloads_that_fail(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    other = bytes(reversed(FILES["model.safetensors"]))
    repos = {
        "busy": (Repo(FILES, status={"*": 429}), "429"),
        "broken": (Repo(FILES, status={"*": 503}), "503"),
        "portal": (Repo(FILES, page=True), "login page"),
        "pointer": (Repo(FILES | {"model.safetensors": pointer}), "git-lfs pointer"),
        "short": (Repo(FILES, short=1000), ""),
        "wrong": (Repo(FILES | {"model.safetensors": other}), "damaged"),
        "pickle": (
            Repo(without(FILES, "model.safetensors") | {"pytorch_model.bin": PAGE}),
            "save_pretrained",
        ),
    }
    hub = Hub({f"a/{name}": repo for name, (repo, _) in repos.items()} | {"a/good": Repo(FILES)})
    try:
        good, *answers = from_hub(
            tmp_path, hub.url, ("a/good", ""), *((f"a/{n}", "") for n in repos)
        )
    finally:
        hub.stop()
    assert good[0] == 0
    for (name, (_, word)), (code, err) in zip(repos.items(), answers, strict=True):
        assert code == 2 and word in err and (name in err or "model.safetensors" in err), err
    start = time.monotonic()  # … and now nobody answers
    cached, absent = from_hub(tmp_path, hub.url, ("a/good", ""), ("a/other", ""))
    assert cached[0] == 0 and absent[0] == 2 and "check the network" in absent[1]
    assert time.monotonic() - start < 60


def test_fault_25_downloads_that_are_forbidden(tmp_path):
    hub = Hub({"a/gated": Repo(FILES, readers={"hf_owner"}, gated=True)})
    hub.repos["a/private"] = Repo(FILES, readers={"hf_owner"})
    wanted = {
        ("a/gated", ""): "accept the terms",
        ("a/private", ""): "401, unknown or private",
        ("a/nothing", ""): "401, unknown or private",
        ("a/gated", "hf_stranger"): "403, gated; accept the terms",
        ("a/private", "hf_stranger"): "404, unknown or private",
        ("a/gated", "hf_expired"): "renew HF_TOKEN",
    }
    try:
        *answers, owner = from_hub(tmp_path, hub.url, *wanted, ("a/gated", "hf_owner"))
    finally:
        hub.stop()
    assert owner[0] == 0
    for ((repo, _), words), (code, err) in zip(wanted.items(), answers, strict=True):
        assert code == 2 and repo in err and words in err, err
        assert "hf_" not in err  # no token is shown


# --- Units ---------------------------------------------------------------------------------------


def test_fault_26_a_unit_of_another_base(folder, tmp_path):
    run = tmp_path / "run"
    assert probe(folder, "--out", run)[0] == 0
    assert run_command("recall", run)[0] == 0
    build(tmp_path / "other", "llama", seed=1)
    refused("recall", run, "--model", tmp_path / "other", words=("other weights",))
    build(tmp_path / "wide", "llama", hidden_size=64)
    refused("recall", run, "--model", tmp_path / "wide", words=("other weights",))
    raw = (run / UNIT).read_bytes()
    (run / UNIT).write_bytes(raw.replace(b"layers.1.mlp", b"layers.0.mlp"))  # in names and header
    assert b"layers.1.mlp" in raw
    refused("recall", run, "--model", folder, words=(str(run),))


def test_fault_27_merged_twice(tmp_path):
    build(tmp_path / "base", "llama")
    model, tokenizer = tm.load(tmp_path / "base", device="cpu")
    memory = tm.random_memory(tokenizer, 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    unit = tm.memorize(model, memory, rank=2, steps=3, sites="q_proj").unit
    unit.attach(model)
    with pytest.raises(tm.TinymemError):
        unit.attach(model)
    unit.merge()
    merged = {name: p.clone() for name, p in model.named_parameters()}
    changed = [name for name in before if not before[name].equal(merged[name])]
    assert len(changed) == 1 and "q_proj" in changed[0]
    for again in (unit.merge, unit.detach, lambda: unit.attach(model)):
        with pytest.raises(tm.TinymemError) as caught:
            again()
        assert "\n" not in str(caught.value)
    assert all(p.equal(merged[name]) for name, p in model.named_parameters())


def test_fault_28_the_verdict_in_another_precision(tmp_path):
    """It is computed in float32 logits, it holds when decoding, or it is called thin."""
    build(tmp_path / "base", "llama")
    quick = ("--steps", "150", "--length", "12")
    for dtype in ("float32", "bfloat16"):
        code, out, _ = probe(tmp_path / "base", "--dtype", dtype, "--json", quick=quick)
        report = json.loads(out)
        assert code == 0 and report["min_margin"] is not None
        assert report["verbatim"] == (report["min_margin"] > 0)
        assert report["recall_exact"] == report["verbatim"] or report["thin"]
    model, tokenizer = tm.load(tmp_path / "base", device="cpu")
    memory = tm.random_memory(tokenizer, 12)
    alone = tm.memorize(model, memory, rank=2, steps=40)
    ids = torch.tensor([[*memory.prompt_ids, *memory.target_ids]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = tm.memorize(model, memory, rank=2, steps=40)
    with torch.no_grad():
        inside.unit.attach(model)
        logits = model(ids[:, :-1])[0, len(memory.prompt_ids) - 1 :]
        inside.unit.detach()
    assert logits.dtype == torch.float32
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(memory.target_ids)).item()
    assert inside.report["final_loss"] == pytest.approx(loss, abs=1e-3)
    assert inside.report["base_loss"] == pytest.approx(alone.report["base_loss"], abs=1e-4)


# --- Machines, clocks and names ------------------------------------------------------------------


def test_fault_29_a_machine_without_what_was_asked_for(folder):
    report = json.loads(probe(folder, "--device", "cpu", "--json")[1])
    assert (report["device"], report["dtype"]) == ("cpu", "float32")
    if not torch.cuda.is_available():
        args = ("--model", folder, *QUICK)
        refused("probe", *args, "--device", "cuda", words=("'cuda' cannot be used",))
        assert json.loads(probe(folder, "--json")[1])["device"] == "cpu"


def test_fault_30_clocks_and_names(folder, tmp_path, monkeypatch):
    clock = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))  # goes backwards
    real = tmp_path / "a folder with ünïcode ½"
    real.mkdir()
    (tmp_path / "link").symlink_to(real, target_is_directory=True)
    moved = folder.rename(tmp_path / "base mödel")
    out = tmp_path / "link" / "run 1"
    code, shown, _ = probe(moved, "--out", out)
    assert code == 0 and str(out) in shown and (real / "run 1" / REPORT).exists()
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    assert 0 <= report["wall_seconds"] < 60 and report["model"] == str(moved)
    assert run_command("recall", out)[0] == 0
    assert sweep(moved, tmp_path / "link" / "grid 1")[0] == 0
    assert len(rows_of(real / "grid 1")) == 4


# --- Laws ----------------------------------------------------------------------------------------


def rows_file(path: Path, cells, delta, **fields) -> Path:
    rows = [{"rank": r, "length": n, "delta_loss": delta(r, n), **fields} for r, n in cells]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_fault_31_rows_that_determine_no_law(tmp_path):
    cells = list(itertools.product((1, 2, 4, 8), (16, 64, 256)))

    def law(r, n):
        return 8 * (r / n) ** 0.5 + 1

    path, saturated = tmp_path / "rows.jsonl", {"base_loss": 12.0, "final_loss": 0.1}
    assert run_command("fit", rows_file(path, cells, law))[0] == 0
    for chosen, delta, fields, words in (
        ([], law, {}, "no rows"),
        (cells[:5], law, {}, "law"),
        ([cells[0]] * 12, law, {}, "rank"),
        ([(r, 16) for r in range(1, 9)], law, {}, "length"),
        ([(2, n) for n in range(8, 99, 9)], law, {}, "rank"),
        (cells, lambda r, n: 11.9, saturated, "saturated"),
        (cells, lambda r, n: 1.0, {}, "same delta_loss"),
        (cells, lambda r, n: -law(r, n), {}, ""),
    ):
        refused("fit", rows_file(path, chosen, delta, **fields), words=(words,))
    for big in (1e200, 1e300):
        code, out, err = run_command(
            "fit", rows_file(path, cells, lambda r, n, big=big: big * law(r, n))
        )
        assert (code == 2 and err.count("\n") == 1) or not re.search(r"\b(nan|inf)", out), err
