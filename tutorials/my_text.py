"""Prints the text of your number, which the capstone (exercise 12) asks for.

python tutorials/my_text.py 17
python tutorials/my_text.py 17 --out my_text.txt
"""

import argparse
import sys
from pathlib import Path

from checks.drawn import NUMBERS, draw_text

import tinymem as tm


def main() -> None:
    parser = argparse.ArgumentParser(description="The text of your number, for exercise 12.")
    parser.add_argument("number", type=int, help=f"{NUMBERS.start} to {NUMBERS.stop - 1}")
    parser.add_argument("--out", type=Path, help="also write the text to this file")
    parser.error = lambda message: sys.exit(f"my_text.py: {message}")
    given = parser.parse_args()
    if given.number not in NUMBERS:
        parser.error(f"number {given.number}: expected {NUMBERS.start} to {NUMBERS.stop - 1}")
    _, tokenizer = tm.load("tiny", device="cpu")
    text = draw_text(given.number, tokenizer)
    print(text)
    print(f"\n{tm.text_memory(tokenizer, text).length} tokens")
    if given.out:
        try:
            given.out.write_text(text, encoding="utf-8")
        except OSError as error:
            parser.error(f"--out {given.out}: {error.strerror}")


if __name__ == "__main__":
    main()
