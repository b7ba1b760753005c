"""L-BFGS in rounds. Oracles: torch's L-BFGS on the plain loop, and the final loss of AdamW."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from tests.toy import toy_memory, toy_model
from tinymem.experiment.probe import memorize
from tinymem.training import lbfgs, train
from tinymem.training.loss import TokenLoss
from tinymem.training.margin import END, THIN
from tinymem.training.recipe import METHODS
from tinymem.training.rounds import LEVELS
from tinymem.training.trainer import Trainer
from tinymem.unit.lora import Unit


def run(steps: int, memory=None, **options):
    options = {"rank": 4, "steps": steps, "optimizer": "lbfgs"} | options
    return memorize(toy_model(), memory or toy_memory(24), **options)


def test_it_goes_where_torchs_goes_on_the_plain_loop(monkeypatch):
    monkeypatch.setattr(lbfgs, "FIRST_ITERATIONS", 8)  # iterations in the only round
    model, memory = toy_model(), toy_memory(24)
    unit = Unit.create(model, 4).attach(model)
    (lora,) = unit.loras.values()
    A, B = lora.A, torch.nn.Parameter(lora.B.detach() / lbfgs.B_UNIT)  # B in the units of L-BFGS
    del lora.B
    ids, start, losses = (
        torch.tensor([memory.prompt_ids + memory.target_ids]),
        len(memory.prompt_ids),
        [],
    )
    optimizer = torch.optim.LBFGS(
        [A, B], max_iter=8, history_size=lbfgs.HISTORY, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        lora.B = lbfgs.B_UNIT * B
        loss = F.cross_entropy(model(ids)[0, start - 1 : -1], ids[0, start:])
        loss.backward()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)
    assert run(8).training.losses == pytest.approx(losses[:8], abs=1e-4)


def test_it_needs_fewer_evaluations_than_adamw():
    adamw = memorize(toy_model(), toy_memory(24), rank=4, steps=200, lr=0.05).report["final_loss"]
    result = run(200)
    reached = next(n for n, loss in enumerate(result.training.losses, start=1) if loss <= adamw)
    assert reached <= 100 and result.report["final_loss"] <= adamw
    assert (result.report["optimizer"], result.report["lr"]) == ("lbfgs", None)


@pytest.mark.parametrize("steps", [1, 2, 7, 15])
def test_the_budget_is_kept_and_the_lowest_point_stays(steps):
    result = run(steps)
    assert result.report["steps"] == len(result.training.losses) == steps
    assert result.report["final_loss"] == pytest.approx(min(result.training.losses), abs=1e-5)


def test_ctrl_c_leaves_the_lowest_point(monkeypatch):
    real, calls = Trainer.gradient, []

    def gradient(self, *args):
        calls.append(args)
        if len(calls) == 8:
            with torch.no_grad():  # as after a long step of a line search
                self.stack.parameters()[1].mul_(100)
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(lbfgs, "FIRST_ITERATIONS", 20)  # all in one round
    monkeypatch.setattr(Trainer, "gradient", gradient)
    result = run(100)
    assert (result.report["status"], result.report["steps"]) == ("interrupted", 7)
    parameters = result.unit.parameters()
    assert all(p.isfinite().all() and p.abs().max() < 50 for p in parameters)


@pytest.mark.parametrize("method", METHODS)
def test_a_round_has_one_loss_function_and_curvature_goes_when_it_changes(monkeypatch, method):
    made, rounds = [], []
    real_optimizer, real_gradient = torch.optim.LBFGS, Trainer.gradient

    def make(*args, **options):
        made.append(1)
        return real_optimizer(*args, **options)

    def gradient(self, minibatches, done, weights=None):
        found = real_gradient(self, minibatches, done, weights)
        function = torch.cat([found.weights[0], self.temperature])
        if weights is None:  # a round begins
            rounds.append(function)
        assert torch.equal(function, rounds[-1])  # fixed until the end of the round
        return found

    monkeypatch.setattr(lbfgs, "ITERATIONS", 10)  # several rounds at each temperature
    monkeypatch.setattr(lbfgs, "LBFGS", make)
    monkeypatch.setattr(Trainer, "gradient", gradient)
    rank = 1 if method == "margin" else 4  # a unit of rank 4 soon recites: no gradient is left
    run(240, method=method, rank=rank)
    changes = sum(not torch.equal(a, b) for a, b in itertools.pairwise(rounds))
    assert len(rounds) > 3 and len(made) == 1 + changes and (changes == 0) == (method == "sft")
    if method == "margin":
        course = [math.log(T.item(), END) * (LEVELS - 1) for *_, T in rounds]
        assert course == pytest.approx(list(map(round, course)), abs=1e-4)  # equal ratios
        assert sorted(set(map(round, course))) == list(range(LEVELS))
        assert course == sorted(course) and changes == LEVELS - 1 < len(rounds) - 1


def test_a_trial_that_is_not_finite_is_no_end(monkeypatch):
    real, calls = TokenLoss.__call__, []

    def losses(*args):
        calls.append(1)
        factor = math.nan if len(calls) == 5 else 1.0
        found = real(*args)
        return found._replace(losses=found.losses * factor, objective=found.objective * factor)

    monkeypatch.setattr(TokenLoss, "__call__", losses)
    report = run(60).report
    assert report["status"] == "ok" and report["final_loss"] < report["base_loss"] / 2


def bowl(unit: torch.Tensor, targets: list[torch.Tensor]):
    """Σ (p − target)², with another target in each round."""
    rounds = iter(targets)
    state = {"target": None}

    def evaluate(new_round: bool):
        if new_round:
            before, state["target"] = state["target"], next(rounds, None)
            if state["target"] is None:
                return None
            changed = before is None or not torch.equal(before, state["target"])
        difference = unit - state["target"]
        unit.grad = 2 * difference
        return lbfgs.Evaluation(difference.square().sum().item(), new_round and changed)

    return evaluate


def test_minimize_by_hand():
    """A quadratic needs two evaluations per round, and ends at the target of the last round."""
    p = torch.zeros(3)
    targets = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 0.0, -1.0])]
    lbfgs.minimize(lbfgs.Variables([p]), bowl(p, targets), budget=50)
    assert torch.allclose(p, targets[-1], atol=1e-4)


@pytest.mark.parametrize("budget", [1, 2, 3, 9])
def test_minimize_keeps_its_budget(budget):
    p, calls = torch.zeros(3), []
    evaluate = bowl(p, [torch.tensor([1.0, -2.0, 3.0])] * 99)
    lbfgs.minimize(
        lbfgs.Variables([p]), lambda new: calls.append(new) or evaluate(new), budget=budget
    )
    assert calls[0] and len(calls) <= budget


def test_no_gradient_is_the_end():
    result = run(400, method="memft-ot", zero_active="zero", memory=toy_memory(4), rank=8)
    assert result.report["certified"] and result.report["steps"] < 400
    assert result.report["status"] == "ok"


def test_a_run_that_goes_on_has_the_optimizer_that_starts_at_once():
    """torch's own class would import its compiler when the first one is made."""
    made = []
    values = [torch.ones(2, 1), torch.ones(1, 2)]
    variables = lbfgs.Variables(values)
    lbfgs.minimize(variables, lambda new_round: None, 1, made.append, {"n_iter": 1})
    assert [type(optimizer) for optimizer in made] == [lbfgs.LBFGS]
    assert made[0].state[variables.values[0]]["n_iter"] == 1


def test_a_run_ends_within_a_line_search_where_it_recites(monkeypatch):
    """It ends at the first evaluation at which every token is the likeliest, with that unit."""
    result = run(400, rank=8, stop_when_recited=True)
    training = result.training
    assert (training.ended, training.status) == ("recited", "ok")
    assert result.verdict.verbatim and result.verdict.min_margin > THIN
    monkeypatch.setattr(train, "thin_for", lambda dtype: math.inf)  # the same run to its end
    whole = run(400, rank=8, stop_when_recited=True).training
    assert training.steps == whole.recited.index(1) < 60
    assert training.losses == whole.losses[: training.steps]
    assert result.verdict.loss == pytest.approx(whole.losses[training.steps], abs=1e-4)


def test_a_run_that_stands_still_ends():
    still = run(1000, memory=toy_memory(100), rank=1, stop_when_still=True)
    assert (still.training.ended, still.report["ended"]) == ("still", "still")
    assert 100 <= still.training.steps < 900 and not still.verdict.verbatim
    longer = run(2 * still.training.steps, memory=toy_memory(100), rank=1)
    assert still.verdict.loss - longer.verdict.loss < 0.1 * longer.verdict.loss


def test_the_unit_of_b_by_hand():
    widths = {32: 5, 256: 5, 384: 11.25, 512: 20, 576: 20, 4096: 20}
    assert {width: lbfgs.b_unit(width) for width in widths} == widths
