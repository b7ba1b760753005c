"""Prints hints for a rung of the ladder, an exercise or a stretch task, one more at each call.

    python tutorials/hint.py rung4            # the first hint; call it again for the next, up to 3
    python tutorials/hint.py rung4 --again    # repeats the hints that you have already taken
    python tutorials/hint.py --all            # lists what you have taken

The texts are in hints.md. What you have taken is recorded in hints-taken.json, beside exercises.py.
That file belongs to your hand-in, because a teacher may let each hint cost points.

Exit codes: 0 if hints were printed or listed, 1 if there is no such hint, 2 for a wrong option.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
TEXTS, RECORD = "hints.md", "hints-taken.json"
LEVELS = 3
KINDS = {"rung": "rung", "exercise": "ex", "ex": "ex", "stretch": "stretch"}
HEADINGS = {"rung": "rung", "ex": "exercise", "stretch": "stretch"}


def mark(name: str) -> str | None:
    """The short name that pytest's -m takes: "rung 4" -> "rung4", "exercise5" -> "ex5"."""
    match = re.fullmatch(r"([a-z]+)\s*([1-9]\d?)", name.strip().lower())
    kind = KINDS.get(match[1]) if match else None
    return f"{kind}{match[2]}" if match and kind else None


def heading(short: str) -> str:
    """ "ex5" -> "exercise 5", as the headings of hints.md say it."""
    kind = short.rstrip("0123456789")
    return f"{HEADINGS[kind]} {short[len(kind) :]}"


def read_hints(text: str) -> dict[str, list[str]]:
    """The hints of each part: the texts below `## rung 4`, `### 1`, `### 2` and `### 3`."""
    hints: dict[str, list[str]] = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        levels = re.split(r"^### [1-9][^\n]*\n", body, flags=re.MULTILINE)[1:]
        if short := mark(title):
            hints[short] = [level.strip() for level in levels]
    return hints


def read_record(folder: Path) -> dict | None:
    """The record in this folder; {} if there is none, and None if it cannot be read."""
    if not (folder / RECORD).exists():
        return {}
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def taken(folder: Path) -> dict[str, int]:
    """How many hints of each part were taken, from the record in this folder.

    The record belongs to a student, so whatever is not a number from 1 to 3 is ignored.
    """
    return {
        name: count
        for name, count in (read_record(folder) or {}).items()
        if mark(name) == name and type(count) is int and 1 <= count <= LEVELS
    }


def record(folder: Path, counts: dict[str, int]) -> None:
    """Writes the record: the new file replaces the old one only when it is complete."""
    new = folder / f"{RECORD}.new"
    new.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    os.replace(new, folder / RECORD)


def listing(counts: dict[str, int], hints: dict[str, list[str]]) -> str:
    if not counts:
        return "You have not taken any hints."
    lines = [
        f"{heading(name)}: {count} of {len(hints.get(name, [])) or LEVELS} hints taken"
        for name, count in counts.items()
    ]
    return "\n".join(lines)


def show(short: str, hints: dict[str, list[str]], again: bool, folder: Path) -> str:
    """The next hint, or the taken ones; a new hint is recorded before it is shown."""
    counts, texts = taken(folder), hints[short]
    have, what = min(counts.get(short, 0), len(texts)), heading(short)
    command = f"python tutorials/hint.py {short}"
    if again:
        numbers = range(have)
        after = "" if have else f"You have not taken a hint for {what}. Take one with:\n{command}"
    elif have < len(texts):
        record(folder, {**counts, short: have + 1})
        numbers = range(have, have + 1)
        last = have + 1 == len(texts)
        after = "This was the last one." if last else f"For the next hint, call again: {command}"
        note = f"\nTaken hints are recorded in {RECORD}, which belongs to your hand-in."
        after += "" if have else note
    else:
        numbers = range(0)
        after = f"You have taken all hints for {what}. To read them again:\n{command} --again"
    parts = [f"Hint {n + 1} of {len(texts)} for {what}\n\n{texts[n]}\n" for n in numbers]
    return "\n".join([*parts, after]).strip()


def main(arguments: list[str] | None = None, folder: Path = HERE) -> int:
    parser = argparse.ArgumentParser(prog="hint.py", description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help="rung1 to rung9, ex2, ex5, …, stretch1 to stretch4")
    parser.add_argument("--again", action="store_true", help="repeat the hints already taken")
    parser.add_argument("--all", action="store_true", help="list the hints taken, without texts")
    options = parser.parse_args(arguments)
    part = " ".join(options.part)  # `rung 4` is as good as `rung4`
    if not options.part and not options.all:
        parser.error("which part? For example: python tutorials/hint.py rung4")
    if hasattr(sys.stdout, "reconfigure"):  # a character that the terminal lacks becomes a "?"
        sys.stdout.reconfigure(errors="replace")
    try:
        hints = read_hints((folder / TEXTS).read_text(encoding="utf-8"))
        if options.all:
            print(listing(taken(folder), hints))
            return 0
        short = mark(part)
        if not short or not hints.get(short):
            known = ", ".join(name for name in hints if hints[name])
            print(f"There are no hints for {part}. There are some for: {known or 'none'}")
            return 1
        print(show(short, hints, options.again, folder), flush=True)
        return 0
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename and Path(error.filename).name == TEXTS:
            print(f"There is no {TEXTS} in {folder}. Your teacher may hand out the hints instead.")
        else:
            print(f"{RECORD} cannot be written in {folder}, so no hint is shown: {error.strerror}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
