"""What is common to the checks of all rungs: whose fault a failure is, and whose work an answer.

    @rung(4)
    @points(2)
    def test_rung4_each_step_is_the_right_one(mymem, seed): ...

`mymem` is then a `Rung`. It refuses functions of this rung that take more from tinymem than the
model. If a check fails although it passes with tinymem's lower rungs, the message names the lower
rung that is at fault, and the hand-in keeps the points of the check, because the lower rung has
cost points already. A check may therefore run several times: it draws from `seed`.
"""

import functools
import inspect
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from .grading import Failed, require
from .hand_in import HandIn
from .imports import bindings, taken_from_tinymem
from .library import RUNGS

STRETCH = {
    1: ("save_bfloat16", "load_bfloat16"),
    2: ("write_ranks",),
    3: ("better_schedule",),
    4: ("attach_attention",),
}
OF_RUNGS = {name for functions in RUNGS.values() for name in functions}


class Rung:
    """A hand-in, as the checks of one rung or stretch task use it."""

    def __init__(self, hand_in: HandIn, names: Collection[str]):
        self.hand_in, self.names = hand_in, names  # names: of its functions

    def call(self, name: str, *args, catch: bool = False) -> Any:
        """As HandIn.call."""
        self.require_own_work([name])
        return self.hand_in.call(name, *args, catch=catch)

    def run(self, scenario: Callable, *args, catch: bool = False) -> Any:
        """As HandIn.run. The scenario calls the student's functions as mymem.greedy and so on."""
        self.require_own_work(re.findall(r"\bmymem\.(\w+)", inspect.getsource(scenario)))
        return self.hand_in.run(scenario, *args, catch=catch)

    def require_own_work(self, used: Collection[str]) -> None:
        """Fails if one of these functions takes from tinymem what the student should write."""
        for name in sorted(set(self.names) & set(used)):
            written = name in bound_in(self.hand_in.source)
            require(written, written or self.hand_in.has_no(name))
            taken = taken_by(self.hand_in.source, name, frozenset(OF_RUNGS - {name}))
            message = f"{name} takes {', '.join(taken)} from the library. Write it yourself:"
            require(not taken, f"{message} mymem.py takes nothing of tinymem but tm.load")


@functools.lru_cache
def bound_in(source: str) -> Collection[str]:
    """The names that the source defines. All names, if the source imports all of some module."""
    names = bindings(source)
    return OF_RUNGS if "*" in names else names


@functools.lru_cache
def taken_by(source: str, name: str, others: frozenset[str]) -> list[str]:
    try:
        return taken_from_tinymem(source, {name}, others)
    except SyntaxError:  # the hand-in cannot be imported, which is reported elsewhere
        return []


def rung(number: int) -> Callable[[Callable], Callable]:
    """Marks a check of this rung of the ladder."""
    below = [n for n in RUNGS if n < number]
    return checked(f"rung{number}", f"Rung {number}", RUNGS.get(number, {}), below)


def stretch(number: int) -> Callable[[Callable], Callable]:
    """Marks a check of this stretch task. All rungs are below it."""
    title = f"Stretch task {number}"
    return checked(f"stretch{number}", title, STRETCH[number], list(RUNGS))


def checked(mark: str, title: str, names: Collection[str], below: Sequence[int]) -> Callable:
    def decorate(check: Callable) -> Callable:
        @functools.wraps(check)
        def graded(mymem, **fixtures):
            given, tries = mymem.library, 0
            lower = [n for n in below if n not in given]
            for n in given:
                message = f"{title} is taken from the library (--from-library), so it has no points"
                require(tuple(RUNGS[n]) != tuple(names), message)

            def failure(*more: int) -> pytest.fail.Exception | None:
                """What fails with these rungs from the library, and those of --from-library."""
                nonlocal tries
                tries += 1
                if "tmp_path" in fixtures and tries > 1:
                    fixtures["tmp_path"] = empty(fixtures["tmp_path"] / f"again{tries}")
                return failure_of(check, mymem, names, fixtures, (*given, *more))

            try:
                failed = failure()
                if failed and lower:
                    failed = failure(*lower) or blame(failed, title, lower, failure)
            finally:
                take(mymem, given)
            if failed:
                raise failed

        return getattr(pytest.mark, mark)(graded)

    return decorate


def failure_of(
    check: Callable,
    hand_in: HandIn,
    names: Collection[str],
    fixtures: dict[str, Any],
    library: tuple[int, ...],
) -> pytest.fail.Exception | None:
    """Runs the check once."""
    try:
        take(hand_in, library)
        check(Rung(hand_in, names), **fixtures)
    except pytest.fail.Exception as failed:
        return failed
    return None


def take(hand_in: HandIn, library: tuple[int, ...]) -> None:
    """Loads the hand-in again if it should have other rungs from the library than it has."""
    if hand_in.library != library:
        hand_in.library = library
        broken = hand_in.load()
        require(not broken, str(broken))


def blame(failed: Exception, title: str, lower: Sequence[int], failure: Callable) -> Failed:
    """The check passes with the library's lower rungs. Which of them is at fault?"""
    # What was stopped is known. Otherwise each rung is tried; a higher rung from the library does
    # not use the student's lower ones, so the first one counts.
    stopped = re.search(r"(\w+) was stopped", str(failed))
    known = [n for n in lower if stopped and stopped[1] in RUNGS[n]]
    guilty = known or next(([n] for n in lower if failure(n) is None), lower)
    which = ",".join(map(str, guilty))
    functions = ", ".join(name for n in guilty for name in RUNGS[n])
    message = f"{title} passes with the library's rung {which}, but not with yours ({functions}):"
    message += f" {failed}. Mend yours first, or try --from-library {which}"
    blamed = Failed(message, pytrace=False)
    blamed.keeps = 1.0
    return blamed


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder
