"""Times a step: compared with its peers, and for growing lengths and numbers of units."""

from functools import partial

from tinymem.training.recipe import Recipe
from tinymem.unit.lora import Unit
from tinymem.unit.sites import linear_paths

from .bases import Base, from_folder
from .floor import floor, gemm_rate
from .measure import Rows, alternate
from .peers import RANK, paper_step, peft_step, plain_step, tinymem_step, trainer_step


def targets(base: Base, length: int) -> dict[str, float]:
    """The least speedup over each peer, the most multiple of the floor, the least GEMM share."""
    if base.device.type == "cpu" and base.name == "SmolLM2" and length in (256, 1024):
        return {"peft": 1.6, "paper": 2.7, "floor": 1.2}
    if base.device.type == "cuda" and base.name in ("SmolLM2", "gpt2-sized") and length <= 512:
        return {"peft": 5.0}
    if base.device.type == "cuda" and base.name == "Qwen3-8B-shaped" and length == 2000:
        return {"peft": 2.0, "paper": 3.3, "GEMM rate": 0.6}
    return {}


def step(base: Base, rows: Rows, lengths: tuple[int, ...]) -> None:
    """One optimizer step with sft: tinymem, its peers and the floor take turns."""
    for length in lengths:
        if not base.holds(length):
            rows.skip("step", base.label, f"{length:,} tokens", base.too_long)
            continue
        memory = base.memory(length)
        least = floor(base.model, base.layer, memory)
        calls = {
            "tinymem": tinymem_step(base, memory),
            "peft": peft_step(base, memory),
            "paper": paper_step(base, memory)[0],
            "plain": plain_step(base, memory),
            "floor": least.step,
        }
        times, rounds = alternate(calls, base.device)
        ours, goals = times.pop("tinymem"), targets(base, length)
        about = ("step", base.label, f"{memory.length:,} tokens")
        for peer, theirs in times.items():
            goal = {"target": goals.get(peer), "at_most": peer == "floor"}
            rows.add(*about, peer, ours, theirs, rounds=rounds, **goal)
        if "GEMM rate" in goals:
            rate = gemm_rate(base.model, lambda call: alternate({"": call}, base.device)[0][""])
            share = least.flops / ours / rate
            note = f"{least.flops / 1e12:.3g} TFLOP are necessary;"
            note += f" a product of two 8,192² matrices runs at {rate / 1e12:.4g} TFLOP/s"
            goal = {"target": goals["GEMM rate"], "rounds": rounds, "note": note}
            rows.add(*about, "GEMM rate", value=share, **goal)


def short_weights(base: Base, rows: Rows, source: str, length: int) -> None:
    """One step with a bfloat16 base, compared with a float32 base. Units are float32 in both."""
    short = from_folder(base.name, source, str(base.device), "bfloat16")
    memory = base.memory(length)
    calls = {"bfloat16": tinymem_step(short, memory), "float32": tinymem_step(base, memory)}
    times, rounds = alternate(calls, base.device)
    case = f"{length:,} tokens, bfloat16"
    rows.add("dtype", base.label, case, "float32", *times.values(), rounds=rounds)


def margin_method(base: Base, rows: Rows, length: int) -> None:
    """The last step of a run with the method margin, compared with sft.

    margin computes a second softmax, and most of it underflows at the last temperature.
    """
    memory, recipe = base.memory(length), partial(Recipe, rank=RANK)
    calls = {m: trainer_step(base, memory, [recipe(method=m)], done=1.0) for m in ("margin", "sft")}
    times, rounds = alternate(calls, base.device)
    about = ("methods", base.label, f"{length:,} tokens, margin", "sft")
    rows.add(*about, *times.values(), target=1.1, at_most=True, rounds=rounds)


def growth(
    base: Base, rows: Rows, lengths: tuple[int, ...], units: tuple[int, ...], length: int
) -> None:
    """A step compared with the floor, at each length and for each number of units together.

    The units have memories of `length` tokens. Lengths that `step` has measured are not repeated.
    """
    for tokens in lengths:
        case = f"{base.memory(tokens).length:,} tokens"
        if not base.holds(tokens):
            rows.skip("growth", base.label, f"{tokens:,} tokens", base.too_long)
        elif known := rows.find("step", base.label, case, "floor"):
            ours, theirs, rounds = known.ours, known.theirs, known.rounds
            rows.add("growth", base.label, case, "floor", ours, theirs, at_most=True, rounds=rounds)
        else:
            beside_floor(base, rows, case, tokens, 1)
    for count in units:
        beside_floor(base, rows, f"{count} × {length} tokens", length, count)


def beside_floor(base: Base, rows: Rows, case: str, length: int, units: int) -> None:
    memory = base.memory(length)
    calls = {
        "tinymem": tinymem_step(base, memory, units=units),
        "floor": floor(base.model, base.layer, memory, units).step,
    }
    times, rounds = alternate(calls, base.device)
    rows.add("growth", base.label, case, "floor", *times.values(), at_most=True, rounds=rounds)


def switch(base: Base, rows: Rows) -> None:
    """From one unit to another, each at every Linear site: detach and attach, in milliseconds."""
    names = sorted({path.rpartition(".")[2] for path, _ in linear_paths(base.model)})
    layers = range(base.model.config.num_layers)
    units = [Unit.create(base.model, RANK, sites=names, layers=layers, seed=s) for s in (0, 1)]

    def change() -> None:
        units[0].detach()
        units[1].attach(base.model)
        units.reverse()

    units[0].attach(base.model)
    times, rounds = alternate({"tinymem": change}, base.device)
    units[0].detach()
    case, ours = f"{len(units[0].loras)} LoRAs", 1e3 * times["tinymem"]
    goal = {"target": 1.0, "at_most": True, "rounds": rounds, "note": f"{ours:.2f} ms"}
    rows.add("switch", base.label, case, "1 ms", ours, 1.0, "ms", **goal)
