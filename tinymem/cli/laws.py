"""`tinymem fit` fits the law to a sweep; `tinymem plan` solves it for the rank or the length.

Only the text of a plan needs torch; the rest runs without it.
"""

from ..errors import LawError
from ..experiment.rows import read_rows
from ..law.fit import Fit, fit_rows
from ..law.plan import plan_length, plan_rank
from ..law.recite import recite_length, recite_rank
from ..show.plots import plot_law
from ..show.report import note
from ..show.tables import show_fits, show_plan, show_recital
from . import options as opt
from .output import check_output, print_json


def fit(options: opt.Fit) -> int:
    check_output(plot=options.plot, html=options.html)
    rows = read_some(options)
    fits, refused = fits_of(rows, options)
    if options.plot is not None:
        plot_law(fits, options.plot)
    if options.html is not None:
        from ..show.grid import sweep_page

        sweep_page(options.html, rows, fits, refused)
    if options.json:
        laws = [one.as_dict() for one in fits]
        print_json({**laws[0], "groups": laws, "refused": refused})
    else:
        show_fits(fits, refused)
    return 0


def plan(options: opt.Plan) -> int:
    if [options.length, options.rank, options.text].count(None) != 2:
        raise LawError("give exactly one of --length, --rank and --text")
    law = choose_fit(options)
    length, ratio, base_loss = options.length, options.ratio, None
    chance = options.probability
    if options.text is not None:
        from .source import measure_text

        length, base_loss = measure_text(options, options.text, law.rows[0])
        ratio = ratio or 0
    if options.recite is not None:
        if options.loss is not None:
            raise LawError("--recite plans for recall and --loss for a loss; give one of the two")
        if options.rank is not None:
            recital = recite_length(law, options.rank, options.recite, ratio=ratio)
        else:
            assert length is not None  # one of the three is given
            recital = recite_rank(law, length, options.recite, ratio=ratio)
        if options.json:
            print_json(recital.as_dict())
        else:
            show_recital(recital, law)
        return 0
    if options.rank is not None:
        answer = plan_length(law, options.rank, options.loss, ratio=ratio, probability=chance)
    else:
        assert length is not None  # one of the three is given
        answer = plan_rank(
            law, length, options.loss, ratio=ratio, base_loss=base_loss, probability=chance
        )
    if options.json:
        print_json(answer.as_dict())
    else:
        show_plan(answer, law)
    return 0


def read_some(options: opt.LawOptions) -> list[dict]:
    """The rows; names torn lines on stderr. Raises LawError if there are none."""
    rows, torn = read_rows(options.results)
    for message in torn:
        note(f"tinymem: {message}")
    if not rows:
        raise LawError(f"{options.results}: no rows; run a sweep first")
    return rows


def fits_of(rows: list[dict], options: opt.LawOptions) -> tuple[list[Fit], dict[str, str]]:
    """The laws of the rows, and the groups without one. Raises LawError, which names the file."""
    try:
        return fit_rows(rows, offset=not options.no_offset)
    except LawError as error:
        where = "" if str(options.results) in str(error) else f"{options.results}: "
        raise LawError(f"{where}{error}") from error


def choose_fit(options: opt.Plan) -> Fit:
    """The laws of the method; without one, of the first fit with the law that the plan needs."""
    fits, _ = fits_of(read_some(options), options)
    if options.method is None:
        needed = [one.law if options.recite is None else one.recall for one in fits]
        return fits[next((n for n, law in enumerate(needed) if not isinstance(law, str)), 0)]
    for one in fits:
        if options.method == one.key["method"]:
            return one
    known = ", ".join(str(one.key["method"]) for one in fits)
    problem = f"no law of method {options.method!r}; there is one of {known}"
    raise LawError(f"{options.results}: {problem}")
