"""Wrong answers to the rungs and the stretch tasks: how they are written, and their hand-ins.

    WRONG, wrong, edit = planted()

    @wrong("rung5", "greedy", says="The prompt is not part of the result")
    def with_the_prompt(model, prompt_ids, count):
        return prompt_ids + key.greedy(model, prompt_ids, count)

    edit("no_clip", "rung4", "write", says="is not clipped", old="nn.utils.clip…", new="pass")

The hand-in is the text of the key, and below it the wrong function, which takes the place of the
right one. In both places, `key` has the right answers. `edit` takes the right answer and replaces a
part of its text.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests import answer_key

KEY = Path(__file__).parents[1] / "answer_key.py"
BETWEEN = """
import copy
import types
import numpy as np
import torch.nn.functional as F
key = types.SimpleNamespace(**locals())
"""


class Wrong(NamedTuple):
    part: str  # as `pytest -m` takes it
    name: str  # the right answer that it replaces
    says: str  # part of the message that the student should receive
    source: str  # its code

    @property
    def hand_in(self) -> str:
        return f"{KEY.read_text(encoding='utf-8')}{BETWEEN}{self.source}"


def planted() -> tuple[dict[str, Wrong], Callable, Callable]:
    """An empty collection, and the decorator and the function that fill it."""
    found: dict[str, Wrong] = {}

    def wrong(part: str, name: str, says: str) -> Callable:
        def register(answer: Callable) -> Callable:
            tree = ast.parse(textwrap.dedent(inspect.getsource(answer)))
            (code,) = tree.body
            code.decorator_list = [d for d in code.decorator_list if not is_wrong(d)]
            assert answer.__name__ not in found
            source = f"{ast.unparse(tree)}\n{name} = {answer.__name__}\n"
            found[answer.__name__] = Wrong(part, name, says, source)
            return answer

        return register

    def edit(title: str, part: str, name: str, says: str, old: str, new: str) -> None:
        source = inspect.getsource(getattr(answer_key, name))
        assert source.count(old) == 1 and title not in found, title
        found[title] = Wrong(part, name, says, source.replace(old, new))

    return found, wrong, edit


def is_wrong(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "wrong"
