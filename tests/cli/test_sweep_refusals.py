"""What `tinymem sweep` refuses: another setting than that of the rows there, and bad input."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from tests.experiment import conftest
from tests.experiment.sweeps import ONE_CELL, SWEEP_FILES, content_of, files_in, run_command
from tinymem.base.checkpoint import SHIPPED

one_cell_at_a_time, trained = conftest.one_cell_at_a_time, conftest.trained  # fixtures


@pytest.fixture(scope="module")
def one_row(tmp_path_factory) -> Path:
    """The folder of a sweep of the shipped model that has finished its one cell."""
    folder = tmp_path_factory.mktemp("one_row") / "grid"
    assert run_command(*ONE_CELL, "--out", folder)[0] == 0
    return folder


@pytest.mark.parametrize(
    ("args", "difference"),
    [
        (["--steps", "3"], "steps was 2, is 3"),
        (["--lr", "0.05"], "lr was 0.1, is 0.05"),
        (["--dropout", "0.1"], "dropout was 0.0, is 0.1"),
        (["--layer", "1"], "layers was None, is [1]"),
        (["--site", "c_fc"], "sites was ['mlp'], is ['c_fc']"),
        (["--prompt", "Say:"], "prompt was None, is 'Say:'"),
        (["--no-chat"], "chat was True, is False"),
        (["--zero-active", "zero"], "zero_active was 'sft', is 'zero'"),
        (["--stop-when-certified"], "stop_when_certified was False, is True"),
        (["--epochs", "2"], "epochs was None, is 2"),
        (["--dtype", "bfloat16"], "dtype was 'float32', is 'bfloat16'"),
        (["--ranks", "1,2", "--steps", "3"], "steps was 2, is 3"),
    ],
)
def test_another_setting_is_refused_in_one_line(one_row, trained, args, difference):
    before = content_of(one_row)
    code, out, err = run_command(*ONE_CELL, *args, "--out", one_row)
    assert (code, out) == (2, "") and err.startswith("tinymem: ") and err.count("\n") == 1
    assert err.endswith(f"made under another setting: {difference}; choose another --out\n")
    assert content_of(one_row) == before and files_in(one_row) == SWEEP_FILES and not trained


def test_other_weights_are_refused(one_row, trained, tmp_path):
    copy = Path(shutil.copytree(SHIPPED["tiny"], tmp_path / "tiny"))
    code, _, err = run_command(*ONE_CELL, "--out", one_row, "--model", copy)
    assert code == 0 and not trained  # the same weights in another place
    with safe_open(copy / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = file.metadata()
    next(iter(tensors.values())).view(-1)[0] += 1e-3
    save_file(tensors, copy / "model.safetensors", about)
    before = content_of(one_row)
    code, _, err = run_command(*ONE_CELL, "--out", one_row, "--model", copy)
    assert code == 2 and not trained
    assert re.search(r"setting: base was '\w{64}', is '\w{64}'; choose", err)
    assert content_of(one_row) == before


@pytest.mark.parametrize("flag", ["--text", "--data", "--held-out"])
def test_a_changed_file_is_refused(tmp_path, trained, flag):
    path = tmp_path / "input"
    line = {"prompt": "a", "completion": "Mary had a little lamb"}
    for number, content in enumerate(["one", "one", "two"]):
        text = f"Mary had a little lamb, number {content}"
        row = json.dumps(line | {"completion": text}) + "\n"
        path.write_text(text if flag == "--text" else row)
        before = content_of(tmp_path / "grid")
        code, _, err = run_command(*ONE_CELL, flag, path, "--out", tmp_path / "grid")
        assert code == (2 if number == 2 else 0) and len(trained) == 1
    name = flag[2:].replace("-", "_")
    assert re.search(rf"setting: {name} was '\w{{16}}', is '\w{{16}}'; choose", err)
    assert err.count("\n") == 1 and content_of(tmp_path / "grid") == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--lengths", ""], "--lengths is ''"),
        (["--ratios", ""], "--ratios is ''"),
        (["--lengths", "4,2000"], "2000"),
        (["--lengths", "4,1020"], "1020 target tokens = 10"),
        (["--lengths", "4,0"], "--length is 0"),
        (["--lengths", "-4"], "--length is -4"),
        (["--lengths", "4;5"], "--lengths is '4;5'"),
        (["--lengths", "4,,5"], "--lengths is '4,,5'"),
        (["--lengths", "4.5"], "--lengths is '4.5'"),
        (["--ranks", "1,300"], "rank is 300; at layers.2.mlp it can be 1 to 256"),
        (["--ranks", "1,0"], "rank is 0"),
        (["--ranks", "two"], "--ranks is 'two'"),
        (["--ranks", ""], "--ranks is ''"),
        (["--seeds", ""], "--seeds is ''"),
        (["--seeds", "0,-1"], "seed is -1"),
        (["--seeds", "0,x"], "--seeds is '0,x'"),
        (["--methods", ""], "method is ''"),
        (["--methods", "sft,memft"], "memft-ot"),
        (["--ratios", "0,100"], "needs a text"),
        (["--ratios", "100,101"], "percentage"),
        (["--ratios", "half"], "--ratios is 'half'"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "x"], "--steps"),
        (["--lr", "fast"], "--lr is 'fast'"),
        (["--lr", "nan"], "lr is nan"),
        (["--dropout", "1"], "dropout is 1.0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--boundaries", "4,3,2,1"], "rising"),
        (["--layer", "9"], "layers 0 to 3"),
        (["--site", "q_proj"], "it has mlp"),
        (["--prompt", ""], "prompt is empty"),
        (["--text", "absent"], "absent: cannot be read"),
        (["--data", "absent"], "absent: cannot be read"),
        (["--held-out", "absent"], "absent: cannot be read"),
        (["--data", "a", "--ratios", "0"], "exclude each other"),
        (["--device", "abacus"], "'auto', 'cpu', 'cuda'"),
        (["--model", "no/such/folder"], "does not exist"),
        (["--out", "absent/grid"], "not a folder"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, trained, args, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_command("sweep", "--out", "grid", *args)
    assert (code, out) == (2, "") and not trained
    assert err.startswith("tinymem: ") and err.count("\n") == 1 and message in err
    assert list(tmp_path.iterdir()) == []  # no folder, no lock


def test_files_that_do_not_fit_are_refused(tmp_path, trained):
    short, memories = tmp_path / "short.txt", tmp_path / "memories.jsonl"
    short.write_text("Mary had a little lamb")
    memories.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "", "completion": "b"}\n')
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt_ids": [1], "target_ids": [2] * 2000}) + "\n")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.iterdir())
    for args, message in (
        (["--text", short, "--lengths", "4,400"], "length 400 was asked for, but the text has"),
        (["--data", memories], "memories.jsonl, line 2: "),
        (["--data", long], "2000 target tokens = 2001 exceed"),
        (["--held-out", long], "2000 target tokens = 2001 exceed"),
        (["--data", long, "--lengths", "4,1500"], "1500 target tokens = 1501 exceed"),
        (["--out", tmp_path / "file"], "file"),
    ):
        code, out, err = run_command("sweep", "--steps", "2", "--out", tmp_path / "grid", *args)
        assert (code, out) == (2, "") and not trained
        assert err.startswith("tinymem: ") and err.count("\n") == 1 and message in err
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "mine"
    assert run_command("sweep")[0] == 2  # no --out
