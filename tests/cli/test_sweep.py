"""`tinymem sweep`: from options to grid and recipe; tests/experiment tests the sweep itself."""

import json
from dataclasses import asdict

import pytest

from tinymem.base.checkpoint import Checkpoint
from tinymem.cli import sweep as command


@pytest.fixture
def asked(tinymem, monkeypatch, tmp_path):
    """A function from the arguments of a sweep to what `run_sweep` is called with."""

    def run(*args):
        calls = []

        def run_sweep(model, grid, folder, **more):
            calls.append({"model": model, "grid": grid, "folder": folder, **more})
            return [{"status": "ok", "_where": "line 1"}]

        monkeypatch.setattr(command, "run_sweep", run_sweep)
        code, _, err = tinymem("sweep", "--out", tmp_path / "grid", "--json", *args)
        assert code == 0, err
        return calls[0]

    return run


def test_the_grid(asked):
    cells = asked("--ranks", "1,2", "--lengths", "8", "--methods", "sft, memft-ot", "--seeds", "3")
    assert [(c.rank, c.length, c.ratio, c.method, c.seed) for c in cells["grid"]] == [
        (rank, 8, 100, method, 3) for method in ("sft", "memft-ot") for rank in (1, 2)
    ]


def test_the_default_grid(asked):
    grid = asked()["grid"]
    axes = {
        name: sorted({getattr(cell, name) for cell in grid}) for name in asdict(next(iter(grid)))
    }
    assert axes == {
        "rank": [1, 2, 4, 8],
        "length": [32, 64, 128],
        "ratio": [100],
        "method": ["sft"],
        "seed": [0],
    }


def test_ratios_of_a_text_default_to_all_of_it(asked, tmp_path):
    (tmp_path / "text").write_text("A dark and stormy night in the harbour town.")
    grid = asked("--text", tmp_path / "text", "--ratios", "0,50", "--ranks", "1")["grid"]
    assert [cell.ratio for cell in grid] == [0, 50] and len({cell.length for cell in grid}) == 1


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        (["--layer", "1"], "layers", (1,)),
        (["--site", "c_attn,c_proj"], "sites", ("c_attn", "c_proj")),
        (["--zero-active", "zero"], "zero_active", "zero"),
        (["--steps", "7"], "steps", 7),
        (["--epochs", "7"], "epochs", 7),
        (["--batch-size", "7"], "batch_size", 7),
        (["--accumulate", "7"], "accumulate", 7),
        (["--boundaries", "1,2,3,4"], "boundaries", (1, 2, 3, 4)),
        (["--optimizer", "lbfgs"], "optimizer", "lbfgs"),
        (["--lr", "0.5"], "lr", 0.5),
        (["--dropout", "0.5"], "dropout", 0.5),
        (["--stop-when-certified"], "stop_when_certified", True),
    ],
)
def test_the_recipe(asked, args, name, value):
    found = getattr(asked("--ranks", "1", "--lengths", "8", *args)["recipe"], name)
    assert found == value and type(found) is type(value)


def test_the_base_model_and_the_source(asked, tmp_path):
    (tmp_path / "held").write_text('{"prompt_ids": [1], "target_ids": [2, 3]}\n')
    call = asked("--dtype", "bfloat16", "--device", "cpu", "--no-chat", "--prompt", "Sing:")
    assert str(call["model"].dtype) == "torch.bfloat16" and str(call["model"].device) == "cpu"
    assert call["source"]["prompt"] == "Sing:" and call["source"]["chat"] is False
    assert call["held_out"] == []
    (held_out,) = asked("--held-out", tmp_path / "held")["held_out"]
    assert held_out.target_ids == (2, 3)


def test_workers_but_the_first_show_nothing_and_choose_their_device(tinymem, monkeypatch, tmp_path):
    asked, devices = [], []

    class Second:
        rank, count = 1, 2

        def device(self, name):
            asked.append(name)
            return "meta"

    def run_sweep(model, grid, folder, **more):
        return [{"status": "ok"}]

    def weights(checkpoint, device, dtype, progress):
        devices.append(device)
        return checkpoint.shapes()

    monkeypatch.setattr(command, "Workers", Second)
    monkeypatch.setattr(command, "run_sweep", run_sweep)
    monkeypatch.setattr(Checkpoint, "weights", weights)
    for device in ("auto", "cuda", "cpu"):
        options = ["--out", tmp_path / "grid", "--device", device, "--json"]
        assert tinymem("sweep", *options) == (0, "", "")
    assert asked == ["auto", "cuda"] and devices == ["meta", "meta", "cpu"]


def test_a_grid_that_cannot_be_is_refused_before_the_weights_are_read(
    tinymem, monkeypatch, tmp_path
):
    monkeypatch.setattr(Checkpoint, "weights", lambda *_: pytest.fail("read the weights"))
    (tmp_path / "long").write_text(json.dumps({"prompt_ids": [1], "target_ids": [2] * 1024}))
    for args in (["--lengths", "1020"], ["--held-out", tmp_path / "long"], ["--ranks", "300"]):
        assert tinymem("sweep", "--out", tmp_path / "grid", *args)[0] == 2


def test_it_ends_with_the_command_that_fits_the_rows(tinymem, tmp_path):
    small = ["--ranks", "1,2", "--lengths", "4", "--steps", "2", "--out", tmp_path / "a grid"]
    code, out, _ = tinymem("sweep", *small)
    assert code == 0 and f"fit it with: tinymem fit '{tmp_path / 'a grid'}'" in out
