"""From the recorded rows to the laws and the pictures of this folder.

    python tutorials/reproduction/draw.py

The rows (rows/*.jsonl) are what `tinymem sweep` wrote, with the commands of README.md; nothing here trains.
Laws go to laws.json, pictures beside it.
"""

import json
from pathlib import Path

from tinymem.files import read_rows
from tinymem.fit import fit_rows
from tinymem.plot import plot_convergence, plot_law, plot_methods

HERE = Path(__file__).parent
GRIDS = {"tiny": True, "tiny-2000": True, "tiny-ratios": True, "smollm2": True}  # fitted with the offset b?
METHODS = ("tiny-methods", "tiny-phonebook", "smollm2-phonebook")
RATES = ("tiny-rates", "smollm2-rates")
DEFAULTS = {"tiny": 0.1, "SmolLM2-135M-Instruct": 1e-2 * 4096 / 576}  # of --lr auto, by width 256 and 576


def rows_of(name: str) -> list[dict]:
    return read_rows(HERE / "rows" / f"{name}.jsonl")[0]


def fit_all() -> dict[str, list]:
    """The laws of every grid that was recorded."""
    return {name: fit_rows(rows_of(name), offset=offset)[0] for name, offset in GRIDS.items()}


def main() -> None:
    fits = fit_all()
    laws = {name: [fit.as_dict() for fit in group] for name, group in fits.items()}
    (HERE / "laws.json").write_text(json.dumps(laws, indent=1) + "\n", encoding="utf-8")
    for name, group in fits.items():
        plot_law(group, HERE / f"{name}.png")
    for name in METHODS:
        plot_methods(rows_of(name), HERE / f"{name}.png")
    plot_convergence([row for name in RATES for row in rows_of(name)], HERE / "rates.png", DEFAULTS)


if __name__ == "__main__":
    main()
