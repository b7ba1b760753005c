"""Recording a step as a CUDA graph. A fake torch.cuda stands in for the GPU."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.toy import toy_memory, toy_model
from tinymem.data.batch import Batch
from tinymem.training import graph
from tinymem.training.margin import END
from tinymem.training.recipe import METHODS, Recipe
from tinymem.training.trainer import Trainer
from tinymem.unit.lora import Unit


class Device:
    """A fake torch.cuda; `log` lists the operations and their streams."""

    def __init__(self, monkeypatch, fails: bool = False):
        self.log, self.stream = [], "default"
        device = self

        class Stream:
            def wait_stream(self, other):
                pass

        class CUDAGraph:
            def replay(self):
                device.log.append("replay")

        @contextlib.contextmanager
        def on(name, error=False):
            before, device.stream = device.stream, name
            yield
            device.stream = before
            if error:
                raise RuntimeError("operation not permitted when stream is capturing")

        for name, value in {
            "is_available": lambda: True,
            "Stream": Stream,
            "current_stream": Stream,
            "stream": lambda stream: on("side"),
            "CUDAGraph": CUDAGraph,
            "graph": lambda graph: on("recording", error=fails),
            "synchronize": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def __call__(self) -> None:
        self.log.append(self.stream)


def test_recorded_once_and_then_replayed(monkeypatch):
    work = Device(monkeypatch)
    replay = graph.GraphedStep(work, record=True)
    for _ in range(6):
        replay()
    assert work.log == ["side"] * graph.EAGER + ["recording"] + ["replay"] * (6 - graph.EAGER)


def test_where_recording_fails_it_goes_on_without(monkeypatch):
    work = Device(monkeypatch, fails=True)
    replay = graph.GraphedStep(work, record=True)
    for _ in range(6):
        replay()
    assert work.log == ["side"] * graph.EAGER + ["recording"] + ["side"] + ["default"] * (
        5 - graph.EAGER
    )


@pytest.mark.parametrize("there", [True, False])
def test_without_recording_it_is_the_function(monkeypatch, there):
    work = Device(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    replay = graph.GraphedStep(work, record=not there)
    for _ in range(5):
        replay()
    assert work.log == ["default"] * 5


class Recordable(TorchDispatchMode):
    """Refuses operations that wait for the device or whose shape depends on the data."""

    WAITS = (
        "_local_scalar_dense",
        "equal",
        "is_nonzero",
        "nonzero",
        "masked_select",
        "_unique",
        "unique",
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not name.startswith(self.WAITS), name
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), f"{name} by a mask"
        return func(*args, **(kwargs or {}))


def test_the_guard_itself():
    x = torch.ones(3)
    for waits in (x.sum().item, lambda: x[x > 0], x.nonzero, lambda: torch.equal(x, x)):
        with pytest.raises(AssertionError), Recordable():
            waits()


@pytest.mark.parametrize("sites", [("mlp",), ("q_proj", "down_proj")])
def test_a_step_never_waits_and_its_shapes_are_fixed(sites):
    model = toy_model()
    recipes = [Recipe(rank=r, method=m, sites=sites) for r in (1, 3) for m in METHODS]
    units = [Unit.create(model, r.rank, sites=sites) for r in recipes]
    batch = Batch([toy_memory(12)] * len(units), model.config.context, model.device)
    trainer = Trainer(model, units, batch, recipes)
    trainer.token_loss.weighted = None  # as on a GPU
    trainer.gradient()
    trainer.update()
    with Recordable():
        for step in range(3):
            trainer.gradient(done=step / 3)
            trainer.update()
    trainer.close()


def test_a_recorded_step_reads_each_runs_temperature_from_the_same_memory():
    """A replay would not see another tensor, nor a number that was read when it was recorded."""
    model = toy_model()
    recipes = [Recipe(rank=2, method=m) for m in ("sft", "margin")]
    units = [Unit.create(model, 2) for _ in recipes]
    batch = Batch([toy_memory(12)] * 2, model.config.context, model.device)
    trainer = Trainer(model, units, batch, recipes)
    memory, losses = trainer.temperature, []
    for done in (0.0, 0.5, 1.0):
        trainer.gradient(done=done)
        assert trainer.temperature is memory
        assert memory.tolist() == pytest.approx([1, END ** (done * done)])
        memory[1] = 0.5  # what a recorded step reads when it is replayed
        losses.append(trainer._gradient().loss.item())
    assert losses[0] == losses[1] == losses[2]
    memory[1] = 0.25
    assert trainer._gradient().loss.item() != losses[0]
    trainer.close()
