"""How long a step takes: beside its peers, and as lengths and units grow."""

from .bases import Base, from_folder
from .floor import floor, gemm_rate
from .measure import Rows, alternate
from .peers import paper_step, peft_step, plain_step, tinymem_step


def targets(base: Base, length: int) -> dict[str, float]:
    """At least so many times as fast as a peer; at most so many times the floor; share of the GEMM rate."""
    if base.device.type == "cpu" and base.name == "SmolLM2" and length in (256, 1024):
        return {"peft": 1.6, "paper": 2.7, "floor": 1.2}
    if base.device.type == "cuda" and base.name in ("SmolLM2", "gpt2-sized") and length <= 512:
        return {"peft": 5.0}
    if base.device.type == "cuda" and base.name == "Qwen3-8B-shaped" and length == 2000:
        return {"peft": 2.0, "paper": 3.3, "GEMM rate": 0.6}
    return {}


def step(base: Base, rows: Rows, lengths: tuple[int, ...]) -> None:
    """One optimizer step, sft: tinymem, its peers and the floor in turns."""
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
            at_most = peer == "floor"
            rows.add(
                *about, peer, ours, theirs, target=goals.get(peer), at_most=at_most, rounds=rounds
            )
        if "GEMM rate" in goals:
            rate = gemm_rate(base.model, lambda call: alternate({"": call}, base.device)[0][""])
            share = least.flops / ours / rate
            note = f"{least.flops / 1e12:.3g} necessary TFLOP, {rate / 1e12:.4g} TFLOP/s in an 8,192² product"
            rows.add(
                *about,
                "GEMM rate",
                value=share,
                target=goals["GEMM rate"],
                rounds=rounds,
                note=note,
            )


def short_weights(base: Base, rows: Rows, source: str, length: int) -> None:
    """One step with a bfloat16 base (units are float32 all the same), beside one with a float32 base."""
    short = from_folder(base.name, source, str(base.device), "bfloat16")
    memory = base.memory(length)
    calls = {"bfloat16": tinymem_step(short, memory), "float32": tinymem_step(base, memory)}
    times, rounds = alternate(calls, base.device)
    case = f"{length:,} tokens, bfloat16"
    rows.add("dtype", base.label, case, "float32", *times.values(), rounds=rounds)


def growth(
    base: Base, rows: Rows, lengths: tuple[int, ...], units: tuple[int, ...], length: int
) -> None:
    """A step beside the floor at each length, and for 1, 2, … units of `length` tokens trained together.

    Lengths that `step` has measured already are taken from there.
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
