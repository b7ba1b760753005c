"""Runs to make pages of: one whose tokens are hostile texts, and what is known of it."""

import tinymem as tm

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--",
    "\u2028",
    "\u202eevil",
    "\x1b[31m",
    "&lt;b&gt;",
    "{{title}}",
    "a\nb",
]


class HostileTokenizer:
    """Every token id is one of the texts in HOSTILE."""

    core = tm.load("tiny")[1].core  # says of no id that a space is missing

    def decode(self, ids: list[int]) -> str:
        return "".join(HOSTILE[i % len(HOSTILE)] for i in ids)


def hostile_result(length: int = 24, steps: int = 40, **options):
    """A short real run, whose tokens are read by HostileTokenizer."""
    model, tokenizer = tm.load("tiny")
    memory = tm.random_memory(tokenizer, length)
    return tm.memorize(model, memory, rank=2, steps=steps, **options)


LIKELIEST = [[(n + k, 0.5 / (k + 1)) for k in range(5)] for n in range(24)]
