"""`tinymem probe` and `recall` as a user meets them: files, streams, reports and refusals."""

import io
import json
import subprocess
import sys

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from tests.experiment.test_report import FIELDS
from tinymem.base.checkpoint import open_checkpoint
from tinymem.cli import probe, source
from tinymem.experiment import resume

FAST = ["--steps", "40", "--length", "12", "--rank", "4"]


def test_json_is_one_document_with_the_contracts_fields(tinymem):
    code, out, _ = tinymem("probe", *FAST, "--json")
    report = json.loads(out)
    assert code == 0 and set(report) >= FIELDS
    facts = [report[name] for name in ("model", "rank", "length", "layer")]
    assert facts == ["tiny", 4, 12, 2]


def test_probe_and_recall_in_a_new_process(tinymem, tmp_path):
    out = tmp_path / "run"
    code, shown, _ = tinymem(
        "probe", "--rank", "8", "--length", "16", "--steps", "150", "--full", "--out", out
    )
    assert code == 0 and "Certified" in shown and "16 of 16 tokens" in shown
    assert f"Saved in {out}; recite it with: tinymem recall {out}" in shown
    assert sorted(p.name for p in out.iterdir()) == ["report.json", "unit.safetensors"]
    again = subprocess.run(
        [sys.executable, "-m", "tinymem", "recall", out, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    recalled, report = json.loads(again.stdout), json.loads((out / "report.json").read_text())
    assert recalled["agrees"] and recalled["certified"] and recalled["recall_exact"]
    assert recalled["min_probability"] == pytest.approx(report["min_probability"], abs=1e-5)


def test_recall_notices_a_unit_that_is_not_the_one_reported(tinymem, tmp_path):
    out = tmp_path / "run"
    tinymem("probe", "--rank", "8", "--length", "16", "--steps", "150", "--out", out)
    with safe_open(out / "unit.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = json.loads(file.metadata()["tinymem"]) | {"tensors_hash": None}  # an older unit
    tensors["layers.2.mlp.lora_B"] *= 0
    save_file(tensors, out / "unit.safetensors", {"tinymem": json.dumps(about)})
    code, shown, _ = tinymem("recall", out)
    assert code == 1 and "Not as reported" in shown


def test_recall_takes_a_base_that_has_moved(tinymem, tmp_path):
    """A folder with the same weights will do; a base model of other shapes is refused."""
    from tinymem.base.checkpoint import locate

    out = tmp_path / "run"
    tinymem("probe", *FAST, "--out", out)
    (tmp_path / "moved").symlink_to(locate("tiny"))
    code, printed, _ = tinymem("recall", out, "--model", tmp_path / "moved", "--json")
    assert code == 0 and json.loads(printed)["agrees"]
    code, _, err = tinymem("recall", out, "--model", tmp_path / "nowhere")
    assert code == 2 and "nowhere: does not exist" in err


def test_the_base_model_of_a_run_and_of_its_recall(tinymem, tmp_path, monkeypatch):
    """Revision and precision are the run's own in a recall, unless it is told otherwise."""
    opened = []

    def spy(*args):
        opened.append(args)
        return open_checkpoint(*args)

    monkeypatch.setattr(source, "open_checkpoint", spy)
    monkeypatch.setattr(probe, "open_checkpoint", spy)
    out, how = tmp_path / "run", ["--device", "cpu", "--json"]
    base = ["--revision", "first", "--dtype", "bfloat16"]
    report = json.loads(tinymem("probe", *FAST, *base, *how, "--out", out)[1])
    assert (report["revision"], report["dtype"]) == ("first", "bfloat16")
    again = json.loads(tinymem("recall", out, *how)[1])
    assert again["dtype"] == "bfloat16" and again["agrees"]
    other = json.loads(tinymem("recall", out, "--revision", "b", "--dtype", "float32", *how)[1])
    assert other["dtype"] == "float32"
    assert opened == [("tiny", "first"), ("tiny", "first"), ("tiny", "b")]


def test_stubborn_tokens_are_shown(tinymem):
    _, shown, _ = tinymem("probe", "--rank", "1", "--length", "64", "--steps", "60")
    assert "Not recited" in shown and "wrong argmaxes" in shown and "‹" in shown


def test_linear_sites_text_and_picture(tinymem, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Mary had a little lamb, its fleece was white as snow.")
    unit = ("--site", "c_attn", "--layer", "1,3", "--rank", "4", "--steps", "60")
    files = ("--text", text, "--out", tmp_path / "run", "--plot", tmp_path / "run.png")
    code, shown, _ = tinymem("probe", *unit, *files, "--method", "memft-ot")
    assert code == 0 and "tokens of text" in shown and "layers 1, 3" in shown
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "adapter_config.json").exists()
    assert tinymem("recall", tmp_path / "run")[0] == 0


def test_text_from_stdin(tinymem, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"To be, or not to be")))
    code, out, _ = tinymem("probe", "--text", "-", "--steps", "5", "--json")
    assert code == 0 and json.loads(out)["ratio"] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rank", "0"], "rank is 0"),
        (["--rank", "300"], "rank is 300; at layers.2.mlp it can be 1 to 256"),
        (["--rank", "x"], "--rank"),
        (["--layer", "9"], "layers 0 to 3"),
        (["--layer", "-1"], "layers 0 to 3"),
        (["--layer", "two"], "--layer is 'two'"),
        (["--layer", "all"], "stands alone"),
        (["--site", "q_proj"], "it has mlp, c_attn, c_proj, c_fc"),
        (["--method", "memft"], "memft-ot"),
        (["--zero-active", "none"], "'sft', 'zero'"),
        (["--optimizer", "adam"], "'adamw', 'lbfgs'"),
        (["--lr", "fast"], "--lr is 'fast'"),
        (["--lr", "-1"], "lr is -1.0"),
        (["--steps", "0"], "steps is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--boundaries", "1,x"], "--boundaries is '1,x'"),
        (["--length", "0"], "--length is 0"),
        (["--length", "1020"], "1020 target tokens = 10"),
        (["--length", "1000000000000"], "context of 1024"),
        (["--ratio", "50"], "--ratio 50 needs a text"),
        (["--ratio", "200"], "percentage"),
        (["--prompt", ""], "prompt is empty"),
        (["--text", "absent.txt"], "absent.txt: cannot be read"),
        (["--data", "absent.jsonl"], "absent.jsonl: cannot be read"),
        (["--data", "a.jsonl", "--text", "b"], "exclude each other"),
        (["--device", "abacus"], "'auto', 'cpu', 'cuda'"),
        (["--dtype", "int8"], "'auto', 'float32', 'bfloat16'"),
        (["--model", "no/such/folder"], "does not exist"),
        (["--plot", "a.gif"], ".png"),
        (["--plot", "absent/a.png"], "not a folder"),
        (["--html", "absent/a.html"], "not a folder"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tinymem, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = tinymem("probe", *args, "--out", "run")
    assert code == 2 and out == ""
    assert err.startswith("tinymem: ") and err.count("\n") == 1 and message in err
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_page_is_written_beside_the_report(tinymem, tmp_path):
    page = tmp_path / "a.html"
    code, out, _ = tinymem("probe", *FAST, "--json", "--html", page)
    assert code == 0 and json.loads(out)["rank"] == 4
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and '"likeliest": [[[' in text
    run = ("probe", *FAST, "--out", tmp_path / "run")
    assert tinymem(*run)[0] == 0
    code, _, err = tinymem(*run, "--html", tmp_path / "b.html")
    assert code == 2 and "its course, which --plot and --html show, is not kept" in err


def test_bad_input_is_found_before_the_weights_are_read(tinymem, monkeypatch):
    from tinymem.base.checkpoint import Checkpoint

    monkeypatch.setattr(Checkpoint, "weights", lambda *_: pytest.fail("read the weights"))
    for args in (["--rank", "300"], ["--layer", "9"], ["--length", "1020"], ["--prompt", ""]):
        assert tinymem("probe", *args)[0] == 2


def test_a_folder_with_something_in_it_is_not_overwritten(tinymem, tmp_path):
    (tmp_path / "notes").write_text("mine")
    code, _, err = tinymem("probe", *FAST, "--out", tmp_path)
    assert code == 2 and "not empty" in err
    code, _, err = tinymem("probe", *FAST, "--out", tmp_path / "notes")
    assert code == 2 and "is no folder" in err
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_full_disk_does_not_hide_the_result(tinymem, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "save_run", full)
    code, out, err = tinymem("probe", *FAST, "--json", "--out", tmp_path / "run")
    assert code == 1 and json.loads(out)["rank"] == 4 and "No space left" in err


def test_a_run_without_a_usable_unit_does_not_promise_one(tinymem, tmp_path):
    wild = ("--lr", "999999", "--site", "c_attn, c_proj,c_fc", "--layer", "all")
    out = tmp_path / "a b"
    code, shown, _ = tinymem("probe", "--steps", "40", "--length", "8", *wild, "--out", out)
    report = json.loads((out / "report.json").read_text())
    assert (code == 1) == (report["status"] == "diverged")
    has_unit = (out / "adapter_model.safetensors").exists()
    assert ("tinymem recall '" in shown) == has_unit


def test_many_memories_in_epochs_with_held_out_ones(tinymem, tmp_path):
    rows = [{"prompt_ids": [n], "target_ids": [n + 7, n + 8]} for n in range(8)]
    for name, part in (("train", rows[:6]), ("held", rows[6:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    options = ["--method", "memft-sw", "--epochs", "60", "--batch-size", "2", "--accumulate", "2"]
    options += ["--full"]
    boundaries = ["--boundaries", "4,8,12,16"]
    files = ["--data", tmp_path / "train", "--held-out", tmp_path / "held", "--json"]
    code, out, _ = tinymem("probe", *files, *options, *boundaries, "--rank", "4")
    report = json.loads(out)
    # 2, 3, 4, 5 of 6 memories for 4 epochs each: 1, 1, 1, 2 steps; then 44 epochs of 2
    assert code == 0 and report["steps"] == 4 * (1 + 1 + 1 + 2) + 44 * 2
    assert report["memories"] == 6 and report["held_out_memories"] == 2
    assert report["exact_match"] == 1.0 and report["held_out_exact_match"] == 0.0
    code, _, err = tinymem("probe", *files, *options, "--boundaries", "4,3,12,16")
    assert code == 2 and "rising" in err


def test_recall_of_nothing(tinymem, tmp_path):
    code, _, err = tinymem("recall", tmp_path)
    assert code == 2 and "is this a run's folder?" in err and err.count("\n") == 1
