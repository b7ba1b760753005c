"""Draws the text of the capstone: one for each student's number, of 60 to 150 tokens.

The texts are of several kinds. Some are made of common words and repeat themselves, others are full
of digits, so the ranks that they need differ. The words and the templates are our own.
"""

from collections.abc import Callable, Iterator

import numpy as np

import tinymem as tm

NUMBERS = range(1, 10_000)  # of students; 0 is the text of the lesson

NAMES = [
    "Ada",
    "Bruno",
    "Clara",
    "David",
    "Edith",
    "Felix",
    "Greta",
    "Henry",
    "Irene",
    "Jonas",
    "Karin",
    "Louis",
    "Marta",
    "Nils",
]
TOWNS = [
    "Ashford",
    "Brill",
    "Corby",
    "Dover",
    "Elstow",
    "Frome",
    "Girton",
    "Hythe",
    "Ilford",
    "Jarrow",
    "Kirby",
    "Louth",
]
THINGS = [
    "lamps",
    "ropes",
    "jars",
    "chairs",
    "knives",
    "coats",
    "kettles",
    "hammers",
    "candles",
    "baskets",
    "mirrors",
    "bells",
]
STUFFS = [
    "copper",
    "oak",
    "wool",
    "glass",
    "iron",
    "linen",
    "paper",
    "clay",
    "silver",
    "leather",
    "wax",
    "stone",
]
NOUNS = [
    "river",
    "morning",
    "garden",
    "mountain",
    "child",
    "winter",
    "house",
    "water",
    "road",
    "sister",
    "harvest",
    "bread",
]
VERBS = [
    "sings",
    "waits",
    "falls",
    "returns",
    "sleeps",
    "calls",
    "burns",
    "listens",
    "turns",
    "rises",
    "rests",
    "remembers",
]
QUALITIES = [
    "quiet",
    "golden",
    "old",
    "broken",
    "gentle",
    "cold",
    "early",
    "bright",
    "heavy",
    "distant",
    "patient",
    "green",
]
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"

Random = np.random.Generator


def one(random: Random, words: list[str] | str) -> str:
    return words[int(random.integers(len(words)))]


def digits(random: Random, count: int) -> str:
    return "".join(map(str, random.integers(10, size=count)))


def letter(random: Random) -> Iterator[str]:
    """Sentences of common words."""
    yield f"My dear {one(random, NAMES)},"
    while True:
        noun, other, quality = one(random, NOUNS), one(random, NOUNS), one(random, QUALITIES)
        yield one(
            random,
            [
                f"the {noun} is {quality} this year, and your {other} is well.",
                f"we walked to the {noun} of {one(random, TOWNS)} before the {other} was {quality}.",
                f"{one(random, NAMES)} says that the {quality} {noun} {one(random, VERBS)} again.",
                f"I have thought of you and of the {quality} {noun} all day.",
            ],
        )


def verse(random: Random) -> Iterator[str]:
    """Lines of one form, and a refrain after every second one."""
    refrain = f"O {one(random, QUALITIES)} {one(random, NOUNS)}, come home to me;"
    while True:
        for _ in range(2):
            noun, verb = one(random, NOUNS), one(random, VERBS)
            yield f"the {noun} {verb}, the {one(random, NOUNS)} is {one(random, QUALITIES)},"
        yield refrain


def inventory(random: Random) -> Iterator[str]:
    """Numbers and things."""
    yield f"In the house of {one(random, NAMES)}:"
    while True:
        things = f"{one(random, THINGS)} of {one(random, STUFFS)}"
        yield f"{random.integers(2, 400)} {one(random, QUALITIES)} {things},"


def timetable(random: Random) -> Iterator[str]:
    """Places and times."""
    while True:
        time = f"{random.integers(24):02}:{random.integers(60):02}"
        yield f"Train {digits(random, 3)} to {one(random, TOWNS)} at {time},"
        yield f"platform {digits(random, 1)}."


def codes(random: Random) -> Iterator[str]:
    """Letters and digits without any order."""
    while True:
        mixed = "".join(one(random, LETTERS) for _ in range(3))
        yield f"{one(random, NAMES)} {mixed}-{digits(random, 4)},"


KINDS: list[tuple[Callable[[Random], Iterator[str]], int, int]] = [  # kind, tokens: least, most
    (letter, 60, 90),
    (verse, 60, 100),
    (inventory, 80, 130),
    (timetable, 100, 135),
    (codes, 110, 135),
]


def draw_text(number: int, tokenizer: tm.Tokenizer) -> str:
    """The text of this number, in one line."""
    random = np.random.default_rng([2026, number])
    kind, low, high = KINDS[number % len(KINDS)]
    least = int(random.integers(low, high))
    text = ""
    for part in kind(random):
        text = f"{text} {part}".strip()
        if part.endswith((",", ";", ".")) and len(tokenizer.encode(text, special=False)) >= least:
            break
    return text.rstrip(",;") + ("" if text.endswith(".") else ".")
