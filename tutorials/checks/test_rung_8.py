"""The checks of rung 8: the law and its intervals. All rows are made up, drawn from --seed."""

import math

import numpy as np

from checks.grading import first_of, kind_of, near, number, require, several
from checks.imports import names_used
from checks.ladder import rung
from checks.made_up import LENGTHS, planted, rows_of, saturated
from checks.values import Raised

LN2 = math.log(2)
DRAWS = 1000
REFUSED = {"lstsq", "polyfit", "pinv", "curve_fit", "linregress", "least_squares", "minimize"}


def constants_of(mymem, rows: list[dict]) -> list[float]:
    got = several(mymem.call("fit_law", rows), 3, "(C, α, β)")
    return [number(value, name) for name, value in zip(("C", "α", "β"), got, strict=True)]


def require_constants(got: list[float], right: tuple[float, ...], what: str) -> None:
    made, found = (", ".join(f"{v:.4f}" for v in some) for some in (right, got))
    for name, value, expected in zip(("C", "α", "β"), got, right, strict=True):
        mixed = name == "C" and value > 0 and near(math.log(value), math.log10(expected))
        hints = {
            "That is ln C": name == "C" and near(value, math.log(expected), 1e-4),
            "Your logarithm and your exponential have different bases": mixed,
            "Wrong sign: the law has ℓ^(−β), so β is positive if ΔL falls with ℓ": (
                near(-value, expected, 1e-4)
            ),
        }
        message = (
            f"{what} C, α, β = {made}, but you found {found}. {name} is wrong{first_of(hints)}"
        )
        require(near(value, expected, 1e-3), message)


@rung(8)
def test_rung8_the_constants_of_a_law(mymem, seed):
    random = np.random.default_rng(seed)
    constants = planted(random)
    rows = rows_of(constants, random)
    require_constants(constants_of(mymem, rows), constants, "The rows were made with")


def least_squares(rows: list[dict]) -> tuple[float, ...]:
    ranks, lengths = (np.array([row[name] for row in rows]) for name in ("rank", "length"))
    deltas = [row["base_loss"] - row["final_loss"] for row in rows]
    X = np.stack([np.ones(len(rows)), np.log(ranks), -np.log(lengths)], axis=1)
    log_c, alpha, beta = np.linalg.lstsq(X, np.log(deltas), rcond=None)[0].tolist()
    return math.exp(log_c), alpha, beta


@rung(8)
def test_rung8_least_squares_of_the_logarithm(mymem, seed):
    random = np.random.default_rng(seed)
    rows = rows_of(planted(random), random, noise=0.2, seeds=2)
    what = "The rows scatter by 20 %. The least squares of ln ΔL are at"
    require_constants(constants_of(mymem, rows), least_squares(rows), what)


@rung(8)
def test_rung8_the_normal_equations(mymem, seed):
    """Reads the code, but only after it has given a right answer."""
    random = np.random.default_rng(seed)
    constants = planted(random)
    got = constants_of(mymem, rows_of(constants, random))
    used = names_used(mymem.hand_in.source, "fit_law") & REFUSED
    message = f"fit_law uses {', '.join(sorted(used))}. Write down the normal equations and solve"
    require(not used, f"{message} them, for example with numpy.linalg.solve")
    require(near(got[1], constants[1], 1e-2), "Your normal equations do not give the right α")


@rung(8)
def test_rung8_saturated_rows_are_left_out(mymem, seed):
    random = np.random.default_rng(seed)
    constants = planted(random)
    law, full = rows_of(constants, random), saturated(random)
    alone, got = constants_of(mymem, law), constants_of(mymem, law + full)
    message = f"{len(full)} more rows with final losses from"
    message += f" {min(r['final_loss'] for r in full):.2f} to"
    message += f" {max(r['final_loss'] for r in full):.2f} change α from {alone[1]:.4f} to"
    message += f" {got[1]:.4f}. Leave out the rows whose final loss is at most ln 2 = 0.693"
    right = f"Without saturated rows α is {constants[1]:.4f}, not {alone[1]:.4f}"
    require(near(alone[1], constants[1], 1e-2), right)
    require(all(near(a, b, 1e-6) for a, b in zip(alone, got, strict=True)), message)


def intervals_of(mymem, rows: list[dict], draws: int, seed: int) -> dict[str, tuple[float, float]]:
    got = mymem.call("bootstrap", rows, draws, seed)
    fits = isinstance(got, dict) and set(got) == {"alpha", "beta"}
    message = 'bootstrap should return {"alpha": (low, high), "beta": (low, high)}, not '
    require(fits, message + (f"{got}"[:80] if isinstance(got, dict) else kind_of(got)))
    found = {}
    for name, pair in got.items():
        low, high = (number(v, name) for v in several(pair, 2, f"the interval of {name}"))
        message = f"The interval of {name} is from {low:.4f} to {high:.4f}"
        alike = abs(high - low) < 1e-9
        require(not alike, f"{message}: all draws were alike. Draw cells with replacement")
        require(low < high, f"{message}. Turn it round")
        found[name] = (low, high)
    return found


def reference(rows: list[dict], by_row: bool = False, draws: int = 2 * DRAWS) -> dict:
    """Intervals by a bootstrap that draws cells, or rows."""
    groups: dict[object, list[dict]] = {}
    for number_of, one in enumerate(rows):
        groups.setdefault(number_of if by_row else (one["rank"], one["length"]), []).append(one)
    X = np.array([[1, math.log(g[0]["rank"]), -math.log(g[0]["length"])] for g in groups.values()])
    y = np.array(
        [np.mean([math.log(r["base_loss"] - r["final_loss"]) for r in g]) for g in groups.values()]
    )
    sizes, random = np.array([len(g) for g in groups.values()]), np.random.default_rng(1)
    counts = random.multinomial(len(y), np.full(len(y), 1 / len(y)), size=2 * draws)
    fitting = np.linalg.matrix_rank(X * (counts > 0)[..., None]) == 3
    w = (sizes * counts[fitting][:draws])[:, None]
    fits = np.linalg.solve(X.T * w @ X, (X.T * w @ y)[..., None])[..., 0]
    low, high = np.quantile(fits, [0.025, 0.975], axis=0).tolist()
    return {name: (low[k], high[k]) for name, k in (("alpha", 1), ("beta", 2))}


@rung(8)
def test_rung8_an_interval_for_each_exponent(mymem, seed):
    random = np.random.default_rng(seed)
    rows = rows_of(planted(random), random, noise=0.1, seeds=2)
    rows += saturated(random)
    first, again, other = (intervals_of(mymem, rows, 200, n) for n in (1, 1, 2))
    require(first == again, "The same seed should give the same intervals")
    require(first != other, "Another seed should give other draws and slightly other intervals")
    unsaturated = [r for r in rows if r["final_loss"] > LN2]
    _, *exponents = least_squares(unsaturated)
    right = reference(unsaturated, draws=400)
    for (name, (low, high)), value in zip(first.items(), exponents, strict=True):
        message = f"The interval of {name} is from {low:.4f} to {high:.4f}"
        least, most = right[name]
        wide = f"{message}. A bootstrap of the cells gives one from {least:.4f} to {most:.4f}"
        require(0.3 < (high - low) / (most - least) < 3, wide)
        inside = low <= value <= high
        require(inside, f"{message}, but the fit to all rows gives {value:.4f}", keeps=0.5)
    require_repeated_draws(mymem, rows)


def require_repeated_draws(mymem, rows: list[dict]) -> None:
    """Of four cells, a third of the draws determines no law. The others give five laws in all."""
    few = [one for one in rows if one["rank"] < 3 and one["length"] in LENGTHS[:2]]
    short, long = LENGTHS[:2]
    message = f"The rows have ranks 1 and 2, and lengths {short} and {long}. Draw again if a draw"
    message += f" determines no law, such as that of the cells (1, {short}) and (2, {long}) alone,"
    message += " for which numpy.linalg.solve need not raise an error"
    failed = mymem.call("bootstrap", few, 200, 1, catch=True)
    raised = f". bootstrap raised {failed.text}" if isinstance(failed, Raised) else ""
    require(not raised, message + raised, keeps=0.75)
    right = reference(few, draws=400)
    for name, (low, high) in intervals_of(mymem, few, 200, 1).items():
        least, most = right[name]
        found = f"{message}. The interval of {name} is from {low:.4f} to {high:.4f}, but the"
        found += f" 2.5 % and 97.5 % quantiles of the draws are {least:.4f} and {most:.4f}"
        off = max(abs(low - least), abs(high - most))
        require(off < 0.02 * (most - least) + 1e-4, found, keeps=0.75)


def mean_ratio(some: dict, others: dict) -> float:
    """How many times as wide the intervals are, as the geometric mean of the two."""
    ratios = [np.ptp(some[name]) / np.ptp(others[name]) for name in some]
    return math.sqrt(math.prod(ratios))


@rung(8)
def test_rung8_the_draws_are_of_cells(mymem, seed):
    """Four seeds that are copies of each other say no more than one: only rows would.

    The mean ratio of a right bootstrap scatters by 0.016, and that of 90 % intervals around 0.81.
    """
    random = np.random.default_rng(seed)
    rows = rows_of(planted(random), random, noise=0.1, seeds=4, copies=True)
    right = reference(rows, draws=8 * DRAWS)
    got = [mean_ratio(intervals_of(mymem, rows, DRAWS, n), right) for n in range(1, 5)]
    ratio, rows_give = float(np.mean(got)), mean_ratio(reference(rows, by_row=True), right)
    hints = {
        "You drew rows, not cells: the four seeds of a cell are copies here and say no more"
        " than one": abs(ratio / rows_give - 1) < 0.2,
        "A 95 % interval is from the 2.5 % to the 97.5 % quantile": 0.68 < ratio < 0.9,
    }
    message = f"With {DRAWS} draws, the intervals are on average {ratio:.2f} times as wide as those"
    require(0.9 < ratio < 1.1, f"{message} of a bootstrap of the cells{first_of(hints)}")
