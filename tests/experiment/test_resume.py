"""A run that is killed and started again is, bit for bit, the run without the kill."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toy import toy_memory, toy_model
from tinymem import files
from tinymem.base.progress import Progress
from tinymem.errors import DataError, RecipeError
from tinymem.experiment import resume
from tinymem.experiment.probe import memorize
from tinymem.experiment.resume import STATE, StateFile, finished_report
from tinymem.training import lbfgs
from tinymem.training.recipe import Recipe

LR = 0.05


class Killed(BaseException):
    """What no code catches, as no code survives a kill."""


class KilledAt(Progress):
    """A progress that ends the process, as far as the run can tell, when so much is done."""

    def __init__(self, *shares: float, error: type[BaseException] = Killed):
        self.shares, self.error = list(shares), error

    def training(self, step, steps, loss, certified, recited):
        if self.shares and step / steps >= self.shares[0]:
            self.shares.pop(0)
            raise self.error


@pytest.fixture(autouse=True)
def save_every_step(monkeypatch):
    monkeypatch.setattr(resume, "EVERY", 0.0)
    monkeypatch.setattr(files.system, "sync", lambda path: None)  # it takes longer than the step


def run(folder, progress, memories=None, **options):
    """One run, saved in `folder` as the command line does it."""
    model, recipe = toy_model(), Recipe(**({"rank": 3, "lr": LR} | options))
    folder.mkdir(exist_ok=True)
    keeper = StateFile(folder, options, model)
    memories = memories or toy_memory(24)
    result = memorize(model, memories, recipe=recipe, progress=progress, keeper=keeper)
    keeper.end(result, model, recipe)
    return result


def facts(result):
    """All that a run found, but for its time."""
    report = {key: value for key, value in result.report.items() if key != "wall_seconds"}
    course = repr([result.training.losses, result.training.certified, result.training.trace])
    return report, course, [p.detach().tolist() for p in result.unit.parameters()]


CASES = {
    "sft": {},
    "memft-ot": {"method": "memft-ot"},
    "memft-sw": {"method": "memft-sw"},
    "margin": {"method": "margin"},
    "dropout": {"dropout": 0.2},
    "linear sites": {"sites": ("q_proj", "down_proj"), "layers": (1, 3), "lr": 0.01},
    "stops early": {"rank": 8, "steps": 100, "stop_when_certified": True},
}


@pytest.mark.parametrize("case", CASES)
def test_killed_twice(tmp_path, case):
    options = {"steps": 50, **CASES[case]}
    whole = run(tmp_path / "whole", Progress(), **options)
    for share in (0.1, 0.2):
        with pytest.raises(Killed):
            run(tmp_path / "killed", KilledAt(share), **options)
        assert os.listdir(tmp_path / "killed") == [STATE]
    again = run(tmp_path / "killed", Progress(), **options)
    assert facts(again) == facts(whole)
    assert (again.report["steps"] < options["steps"]) == (case == "stops early")
    assert sorted(os.listdir(tmp_path / "killed")) == sorted(os.listdir(tmp_path / "whole"))


@pytest.mark.parametrize("method", ["sft", "memft-sw", "margin"])
def test_a_killed_run_of_lbfgs(tmp_path, monkeypatch, method):
    monkeypatch.setattr(lbfgs, "ITERATIONS", 6)  # several rounds, which begin with a curvature
    options = {"steps": 120, "optimizer": "lbfgs", "lr": None, "method": method}
    whole = run(tmp_path / "whole", Progress(), **options)
    for share in (0.1, 0.5):
        with pytest.raises(Killed):
            run(tmp_path / "killed", KilledAt(share), **options)
    again = run(tmp_path / "killed", Progress(), **options)
    assert facts(again) == facts(whole)


@pytest.mark.parametrize("method", ["memft-ot", "memft-sw"])
def test_a_killed_run_of_many_memories(tmp_path, method):
    memories = [toy_memory(4 + n, seed=n) for n in range(7)]
    how = {"epochs": 30, "batch_size": 2, "accumulate": 2, "method": method}
    whole = run(tmp_path / "whole", Progress(), memories, **how)
    with pytest.raises(Killed):
        run(tmp_path / "killed", KilledAt(0.4), memories, **how)
    assert facts(run(tmp_path / "killed", Progress(), memories, **how)) == facts(whole)


def test_an_interrupted_run_goes_on(tmp_path):
    """Its unit and report are there too, but without a verdict."""
    whole = run(tmp_path / "whole", Progress(), steps=100)
    part = run(tmp_path / "part", KilledAt(0.5, error=KeyboardInterrupt), steps=100)
    assert (part.report["status"], part.report["steps"]) == ("interrupted", 50)
    assert part.verdict is None and part.report["final_loss"] is None
    assert sorted(os.listdir(tmp_path / "part")) == ["report.json", STATE, "unit.safetensors"]
    assert finished_report(tmp_path / "part", {"steps": 100}) is None
    assert facts(run(tmp_path / "part", Progress(), steps=100)) == facts(whole)


def test_interrupted_at_any_line_of_a_step(tmp_path, monkeypatch):
    """Ctrl-C in the middle of an update must not mix two steps."""
    monkeypatch.setattr(resume, "EVERY", 1e9)  # only what `end` saves
    whole, real = run(tmp_path / "whole", Progress(), steps=20), torch.Tensor.lerp_
    for number in (1, 2, 15, 38):
        calls = iter([False] * number + [True])

        def lerp(*args, calls=calls):
            found = real(*args)
            if next(calls):
                raise KeyboardInterrupt
            return found

        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "lerp_", lerp)
            part = run(folder, Progress(), steps=20)
        assert part.report["status"] == "interrupted"
        assert facts(run(folder, Progress(), steps=20)) == facts(whole)


def test_the_time_of_all_parts_counts(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path / "run", KilledAt(0.5), steps=20)
    state, about = resume.read_state(tmp_path / "run" / STATE)
    header = json.dumps(about | {"seconds": 1000.0})
    metadata = {"tinymem": header, "sha256": resume.hash_of(header, state)}
    save_file(state, tmp_path / "run" / STATE, metadata)
    assert 1000 < run(tmp_path / "run", Progress(), steps=20).report["wall_seconds"] < 1060


# --- What is refused -----------------------------------------------------------------------------


def test_another_command_is_refused_with_the_difference(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        run(folder, KilledAt(0.5), steps=20)
    assert finished_report(folder, {"steps": 20}) is None
    for finished in (False, True):
        with pytest.raises(RecipeError, match="steps was 20, is 30; seed was None, is 1"):
            finished_report(folder, {"steps": 30, "seed": 1})
        if not finished:
            report = run(folder, Progress(), steps=20).report
    assert finished_report(folder, {"steps": 20}) == report


def test_another_base_is_refused(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, KilledAt(0.5), steps=20)
    with pytest.raises(RecipeError, match="base was"):
        StateFile(tmp_path, {"steps": 20}, toy_model(seed=1))


def test_other_folders_are_refused(tmp_path):
    assert finished_report(tmp_path / "new", {}) is None
    (tmp_path / ".lock").touch()
    assert finished_report(tmp_path, {}) is None
    for name in ("notes", "unit.safetensors", "report.json"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(DataError, match=r"is not empty|not a report"):
            finished_report(tmp_path, {})
        (tmp_path / name).unlink()
    (tmp_path / "report.json").write_text("[1")
    with pytest.raises(DataError, match="not a report"):
        finished_report(tmp_path, {})


def test_a_damaged_state_is_refused(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, KilledAt(0.5), steps=20)
    path = tmp_path / STATE
    whole = path.read_bytes()
    for place in range(8, len(whole), len(whole) // 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises((DataError, RecipeError)):  # the other if the command itself has changed
            finished_report(tmp_path, {"steps": 20})
            StateFile(tmp_path, {"steps": 20}, toy_model())
        path.write_bytes(whole[:place])
        with pytest.raises(DataError, match="damaged"):
            finished_report(tmp_path, {"steps": 20})
    path.write_bytes(whole)
    run(tmp_path, Progress(), steps=20)


# --- The disk ------------------------------------------------------------------------------------


def test_killed_at_every_write(tmp_path, monkeypatch):
    """At each of them the folder has the old state or the new one, and the run can go on."""
    whole, moments = run(tmp_path / "whole", Progress(), steps=4), ("sync", "replace")
    count = 0
    for moment in moments:
        for number in range(20):
            folder, left = tmp_path / f"{moment}{number}", [number]
            real = getattr(files.system, moment)

            def killed(*args, real=real, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(*args)

            with monkeypatch.context() as patch:
                patch.setattr(files.system, moment, killed)
                patch.setattr(resume.Path, "unlink", lambda *args, **options: None)  # nor cleaned
                try:
                    run(folder, Progress(), steps=4)
                    break
                except Killed:
                    count += 1
            if finished_report(folder, {"steps": 4}) is None:
                again = run(folder, Progress(), steps=4)
                assert facts(again) == facts(whole)
            assert sorted(os.listdir(folder)) == sorted(os.listdir(tmp_path / "whole"))
        else:
            pytest.fail("more writes than expected")
    assert count == 2 * (5 + 2)  # a state a step and at the end, unit, report: synced and renamed


def test_a_full_disk_while_training_does_not_end_the_run(tmp_path, monkeypatch):
    warnings = []
    progress = Progress()
    progress.warn = warnings.append
    model, recipe = toy_model(), Recipe(rank=2, steps=10)
    keeper = StateFile(tmp_path, {}, model, progress)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "write_bytes_atomically", full)
    result = memorize(model, toy_memory(), recipe=recipe, progress=progress, keeper=keeper)
    assert result.report["status"] == "ok" and len(warnings) == 1 and "No space" in warnings[0]


def test_a_full_disk_at_the_end_names_what_is_there(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "save_run", full)
    with pytest.raises(OSError, match=f"No space left.*on the disk: {STATE}; free some space"):
        run(tmp_path, Progress(), steps=10)
    monkeypatch.undo()
    assert run(tmp_path, Progress(), steps=10).report["status"] == "ok"


def test_states_are_plain_tensors(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, KilledAt(0.5), steps=20, dropout=0.1)
    assert {"unit.0", "m.0", "v.1", "t.0", "generator.0", "metrics"} <= set(
        load_file(tmp_path / STATE)
    )
