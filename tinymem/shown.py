"""How an object shows itself: as one line anywhere, and as a picture or a table in a notebook.

What that line says is written in show/, which stands after the packages whose objects it shows: it
imports them, and they cannot import it. So the objects inherit from `Shown`, which imports show/
by name, and only when something is to be shown. The bars of a notebook (base/progress.py) come the
same way, and nothing else does.
"""

import importlib
from typing import Any


def show_module(name: str) -> Any:
    """The module show/NAME.py."""
    return importlib.import_module(f".show.{name}", __package__)


class Shown:
    """An object that print() and notebooks show as a person wants to see it."""

    def __repr__(self) -> str:
        return str(show_module("one_line").one_line(self))

    def _repr_html_(self) -> str | None:
        """For Jupyter: None where the line says all."""
        html: str | None = show_module("notebook").html_of(self)
        return html


class ShownTokens(Shown):
    """Something about the tokens of a target, which knows their ids and no tokenizer."""

    def show(self, tokenizer: Any) -> Any:
        """The target, with the texts of its tokens: coloured in a notebook, else as plain text."""
        return show_module("notebook").show_tokens(self, tokenizer)
