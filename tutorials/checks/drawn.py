"""Draws the text of the capstone: one for each student's number, of 60 to 150 tokens.

The texts are of several kinds. Some are made of common words and repeat themselves, others are full
of digits, so the ranks that they need differ. The words and the templates are our own.
"""

import re
from typing import NamedTuple

import numpy as np

import tinymem as tm

NUMBERS = range(1, 10_000)  # of students

WORDS = {  # what stands for {name}, {town}, … in a template
    "name": "Ada Bruno Clara David Edith Felix Greta Henry Irene Jonas Karin Louis Marta Nils",
    "town": "Ashford Brill Corby Dover Elstow Frome Girton Hythe Ilford Jarrow Kirby Louth",
    "thing": "lamps ropes jars chairs knives coats kettles hammers candles baskets mirrors bells",
    "stuff": "copper oak wool glass iron linen paper clay silver leather wax stone",
    "noun": "river morning garden mountain child winter house water road sister harvest bread",
    "verb": "sings waits falls returns sleeps calls burns listens turns rises rests remembers",
    "quality": "quiet golden old broken gentle cold early bright heavy distant patient green",
    "letter": "A B C D E F G H J K L M N P Q R S T U V W X Y Z",
    "digit": "0 1 2 3 4 5 6 7 8 9",
    "count": "1 2 3 4 5 6 7 8 9",
    "tens": "0 1 2 3 4 5",
    "hour": "06 07 08 09 10 11 12 13 14 15 16 17 18 19 20 21 22 23",
}


class Kind(NamedTuple):
    """How texts of one kind are made: an opening, then parts, until there are enough tokens."""

    tokens: tuple[int, int]  # the smallest and the largest number at which a text ends
    opening: str
    parts: tuple[str, ...]
    refrain: str = ""  # the same after every second part


KINDS = (
    Kind(  # a letter
        (60, 95),
        "My dear {name}, I hope that you are well.",
        (
            "The {noun} is {quality} this year, and your {noun} is well.",
            "We walked to the {noun} of {town} before the {noun} was {quality}.",
            "{name} says that the {quality} {noun} {verb} again.",
            "I have thought of you and of the {quality} {noun} all day.",
        ),
    ),
    Kind(  # a verse
        (60, 100),
        "A song of {town}:",
        ("the {noun} {verb}, the {noun} is {quality},",),
        "O {quality} {noun}, come home to me;",
    ),
    Kind(  # an inventory
        (80, 130),
        "In the house of {name}:",
        ("{count}{digit} {quality} {thing} of {stuff},", "a box of {thing}, mostly {quality},"),
    ),
    Kind(  # a timetable
        (100, 130),
        "Trains from {town}:",
        ("{digit}{digit}{digit} to {town} at {hour}:{tens}{digit}, platform {digit};",),
    ),
    Kind(  # codes
        (110, 135),
        "Keys:",
        ("{name} {letter}{letter}{letter}-{digit}{digit}{digit}{digit},",),
    ),
)


def draw_text(number: int, tokenizer: tm.Tokenizer) -> str:
    """The text of this number, in one line."""
    random = np.random.default_rng([2026, number])

    def filled(template: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda name: one_of(WORDS[name[1]].split()), template)

    def one_of(choices: list[str] | tuple[str, ...]) -> str:
        return choices[int(random.integers(len(choices)))]

    kind = KINDS[number % len(KINDS)]
    least = int(random.integers(*kind.tokens))
    lines, refrain = [filled(kind.opening)], filled(kind.refrain)
    while len(tokenizer.encode(" ".join(lines), special=False)) < least:
        lines.append(filled(one_of(kind.parts)))
        if refrain and len(lines) % 3 == 0:
            lines.append(refrain)
    return " ".join(lines).rstrip(",;.") + "."
