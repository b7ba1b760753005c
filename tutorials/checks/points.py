"""Points: of each check, exercise, rung and stretch task, and in total.

A check is a dict with its number under the name of its kind (`rung`: 4), and `check`, `points`,
`of`, `passed` and `reason`. The points of stretch tasks do not count in the total.
"""

from collections.abc import Mapping

EXERCISES = {
    2: "a frozen transformer",
    5: "one half is enough",
    7: "measuring capacity",
    9: "bits per parameter",
    11: "making it fast",
    12: "your own model",
}
RUNGS = {
    1: "tokens and targets",
    2: "the memory unit",
    3: "the loss of a token",
    4: "a training loop",
    5: "decode and judge",
    6: "MemFT and margin",
    7: "a sweep",
    8: "the law",
    9: "a plan",
}
STRETCH = {
    1: "units in bfloat16",
    2: "a batch of ranks",
    3: "a better schedule for margin",
    4: "sites in attention",
}
KINDS = {"exercise": EXERCISES, "rung": RUNGS, "stretch": STRETCH}
MARKS = {"exercise": "ex", "rung": "rung", "stretch": "stretch"}  # as in `-m rung4`
PARTS = {"exercise": "exercises", "rung": "rungs", "stretch": "rungs"}  # of the hand-in

Points = dict[str, float]  # `points`, the points reached, and `of`, the points possible


def kind_in(about: Mapping[str, object]) -> str | None:
    """Whether this is about an exercise, a rung or a stretch task; None if about none of them."""
    return next((kind for kind in KINDS if kind in about), None)


def checked(
    kind: str, number: int, name: str, of: float, share: float, reason: str | None
) -> dict[str, object]:
    """A check that earned this share of its points; `reason` is None if it passed."""
    about = {kind: number, "check": name, "points": whole(share * of), "of": of}
    return {**about, "passed": reason is None, "reason": reason}


def tally(
    checks: list[dict], hints: dict[str, int], cost: float
) -> tuple[Points, dict[str, dict[int, Points]]]:
    """In total, and by kind and number. Each hint takes `cost` off its part, never below 0."""
    parts: dict[str, dict[int, Points]] = {kind: {} for kind in KINDS}
    for check in checks:
        kind = kind_in(check)
        one = parts[kind].setdefault(check[kind], {"points": 0, "of": 0})
        for key in one:
            one[key] = whole(one[key] + check[key])
    for kind, numbers in parts.items():
        for number, one in numbers.items():
            lost = cost * hints.get(f"{MARKS[kind]}{number}", 0)
            one["points"] = whole(max(0, one["points"] - lost))
    counted = [*parts["exercise"].values(), *parts["rung"].values()]
    total = {key: whole(sum(one[key] for one in counted)) for key in ("points", "of")}
    return total, {kind: dict(sorted(one.items())) for kind, one in parts.items()}


def failed_checks(checks: list[dict], kind: str, number: int) -> list[str]:
    """A line for each check of this part that was run and did not pass, with its points."""
    lines = []
    for check in checks:
        if check.get(kind) == number and not check["passed"]:
            name = check["check"].removeprefix(f"test_{MARKS[kind]}{number}_").replace("_", " ")
            points = f"{check['points']:g} of {check['of']:g}"
            free = ", no loss: the fault is in a lower rung" * (check["points"] == check["of"])
            part = ", for what was right before the failure" * (0 < check["points"] < check["of"])
            lines.append(f"      {name}: {points}{free}{part}")
    return lines


def whole(points: float) -> float:
    """Rounded to two decimals, and an int where possible."""
    points = round(points, 2)
    return int(points) if points == int(points) else points
