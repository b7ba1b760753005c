"""The checks of exercises 9 and 11: bits, and logits from cached activations."""

import math

import numpy as np
import pytest
import torch

from checks import scenarios_exercises as scenarios
from checks.expected import some_unit, whole
from checks.grading import apart, first_of, near, number, require, several, tensor
from checks.values import MODEL

LN2 = math.log(2)
points = pytest.mark.points


# --- Exercise 9 -----------------------------------------------------------------------------------


def drawn_losses(seed: int) -> tuple[float, float, float, int]:
    """(base loss, entropy, loss, length)"""
    values = np.random.default_rng(seed).uniform((9, 6, 0.5, 10), (14, 9, 5, 500))
    return (*values[:3].tolist(), int(values[3]))


@pytest.mark.ex9
def test_ex9_stored_bits(answers, seed):
    base, _, loss, length = drawn_losses(seed)
    for before, after, count in ((3 * LN2, LN2, 10), (base, loss, length)):
        each = (before - after) / LN2
        got = number(answers.call("stored_bits", before, after, count), "stored_bits")
        hints = {
            "These are nats; one nat is 1 / ln 2 bits": near(got / LN2, each * count),
            "That is the value for one token": near(got * count, each * count),
            "Wrong sign: the loss falls by L₀ − L": near(-got, each * count),
        }
        message = f"A loss that falls from {before:.3f} to {after:.3f} nats saves {each:.3f} bits"
        message += f" per token, which is {each * count:.2f} bits for {count} tokens, not {got:.2f}"
        require(near(got, each * count), message + first_of(hints))


@pytest.mark.ex9
def test_ex9_memorized_bits(answers, seed):
    _, entropy, loss, length = drawn_losses(seed)
    for H, L, count in ((8 * LN2, 3 * LN2, 100), (entropy, loss, length)):
        got = number(answers.call("memorized_bits", H, L, count), "memorized_bits")
        each = (H - L) / LN2
        message = f"H = {H:.3f} and L = {L:.3f} nats differ by {each:.3f} bits per token, which is"
        message += f" {each * count:.2f} bits for {count} tokens, not {got:.2f}"
        require(near(got, each * count), message)
    high = entropy + 1
    got = number(answers.call("memorized_bits", entropy, high, length), "memorized_bits")
    message = "A unit whose loss on random tokens is above their entropy"
    message += f" (L = {high:.2f} > H = {entropy:.2f} nats) knows 0 bits, not {got:g}"
    require(got == 0, message, keeps=0.5)


@pytest.mark.ex9
def test_ex9_what_a_report_says(answers, seed):
    _, entropy, loss, length = drawn_losses(seed)

    def bits(H: float | None, L: float, recited: bool) -> object:
        row = {"entropy": H, "length": length, "final_loss": L, "recall_exact": recited}
        return answers.call("bits_of", row)

    got = bits(None, loss, False)
    message = "Where the entropy is None, the target is no random one, and nobody knows how many"
    require(got is None, f"{message} bits there were to learn: bits_of should return None", 0.0)
    whole_target = entropy * length / LN2
    for recited, expected in ((False, (entropy - loss) * length / LN2), (True, whole_target)):
        got = number(bits(entropy, loss, recited), "bits_of")
        message = f"A random target of {length} tokens (H = {entropy:.3f} nats per token) that is"
        message += " recited" if recited else " not recited"
        message += f", with the loss L = {loss:.3f}, is worth {expected:.2f} bits, not {got:.2f}"
        hints = {
            "What is recited can be read from the unit completely, whatever the loss is": (
                recited and near(got, (entropy - loss) * length / LN2)
            )
        }
        require(near(got, expected), message + first_of(hints), keeps=0.5 * recited)


# --- Exercise 11 ----------------------------------------------------------------------------------


@pytest.fixture
def cached(tiny, generator):
    """((layer, h, x, A, B), ids, the expected logits), for a drawn layer, rank and length.

    h is the output of the layer without a unit, x is the input of its MLP, and A and B are a unit.
    """
    model, _ = tiny
    layer = whole(0, model.config.num_layers - 2, generator)
    A, B = some_unit(whole(2, 8, generator), generator)
    ids = torch.randint(model.config.vocab_size, (1, whole(8, 16, generator)), generator=generator)
    with torch.no_grad():
        after, x = model.layers[layer].attend(model.run(model.embed(ids), 0, layer), None)
        h = after + model.layers[layer].mlp(x)
        hook = model.layers[layer].mlp.register_forward_hook(lambda _, to, out: out + to[0] @ A @ B)
        expected = model(ids)
        hook.remove()
    return (layer, h, x, A, B), ids, expected


def answered(answers, given: tuple, shape: torch.Size) -> tuple[torch.Tensor, list[int], list[str]]:
    """The logits, the layers of which something was computed, and the arguments that changed."""
    logits, ran, changed = several(answers.run(scenarios.logits_of, MODEL, *given), 3, "a triple")
    return tensor(logits, shape, "The logits, [1, T, V],"), ran, changed


@pytest.mark.ex11
@points(2)
def test_ex11_the_same_logits(answers, tiny, cached):
    model, _ = tiny
    given, ids, expected = cached
    layer, h, x, A, B = given
    logits, _, changed = answered(answers, given, expected.shape)
    with torch.no_grad():
        run, unit, above = model.run, x @ A @ B, layer + 1
        mistakes = {
            "The unit is missing. Add x A B to h": model(ids),
            "The unit's own layer was computed again. Start at the layer above it": (
                model.head(run(h + unit, layer))
            ),
            "The last norm is missing. Use Model.head": model.lm_head(run(h + unit, above)),
            "The input of the unit is x, the input of the MLP, not h": (
                model.head(run(h + h @ A @ B, above))
            ),
            "The layers above are missing. Use Model.run": model.head(h + unit),
            "h is missing. Add the output of the unit to it": model.head(run(unit, above)),
        }
    far = apart(logits, expected)
    hint = first_of({m: apart(logits, z) < 1e-3 for m, z in mistakes.items()})
    message = f"The logits differ by up to {far:.3g} from those of the whole model with the unit"
    require(far < 1e-3, f"{message} attached (0.001 is allowed){hint}")
    message = (
        f"The logits are right, but {', '.join(changed)} changed. The next step reads the same"
    )
    require(
        not changed, f"{message} tensors again: h + … makes a new one, and h += … does not", 0.5
    )


@pytest.mark.ex11
def test_ex11_only_the_layers_above(answers, tiny, cached):
    given, _, expected = cached
    _, ran, _ = answered(answers, given, expected.shape)
    layer, count = given[0], tiny[0].config.num_layers
    above = list(range(layer + 1, count))
    message = f"The unit is in layer {layer} of layers 0 to {count - 1}, so only {above} should be"
    message += f" computed, but {ran or 'none'} were. The layers 0 to {layer} give the same"
    nearly = ran == [layer, *above]
    require(ran == above, f"{message} output in every step, and h is that output", 0.5 * nearly)
