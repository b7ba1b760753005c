"""The command line: its commands, exit codes and signals.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done; 1 the run itself failed;
2 wrong usage or bad input, with one line that says what is wrong; 130 interrupted.

A command is a dataclass of options and a function that takes it. The function's file is imported
only when the command runs, because that loads torch, and `--help` should answer at once.
"""

import inspect
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, get_type_hints

import typer

from .. import __version__, system
from ..errors import TinymemError, is_out_of_memory
from ..show.report import note
from . import options as opt

app = typer.Typer(pretty_exceptions_enable=False)
data = typer.Typer(help="Write benchmark data, which probe and sweep read with --data.")


def command(options: type, function: str) -> Callable[..., Any]:
    """A function for typer, with the options as parameters, that runs a function of a file here.

    function: `file.function`; it is called with the dataclass of the options.
    """
    file, name = function.split(".")

    def call(**values: Any) -> Any:
        return getattr(import_module(f".{file}", __package__), name)(options(**values))

    call.__name__, call.__doc__ = name, options.__doc__
    call.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]
    call.__annotations__ = get_type_hints(options, include_extras=True)
    return call


for group, options, function, example in (
    (app, opt.Probe, "probe.probe", "probe --model gpt2 --rank 8 --length 128 --out run"),
    (app, opt.Sweep, "sweep.sweep", "sweep --ranks 1,2,4,8 --lengths 32,64,128 --out grid"),
    (app, opt.Fit, "laws.fit", "fit grid --plot law.png"),
    (app, opt.Plan, "laws.plan", "plan grid --length 200"),
    (app, opt.Recall, "probe.recall", "recall run"),
    (app, opt.Judge, "judge.judge", "judge --model gpt2 --adapter my-lora --text book.txt"),
    (app, opt.Merge, "merge.merge", "merge run --out merged"),
    (data, opt.Random, "data.random", "data random --length 200 --out random.jsonl"),
    (data, opt.LongContext, "data.long_context", "data long-context --text book.txt --length 400"),
    (data, opt.Phonebook, "data.phonebook", "data phonebook --count 100 --out book.jsonl"),
    (data, opt.Rule, "data.rule", "data rule --count 100 --held-out 50 --out rule.jsonl"),
):
    group.command(epilog=f"Example: tinymem {example}")(command(options, function))
app.add_typer(data, name="data")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """How much can a LoRA of rank r remember, exactly?"""
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    system.open_streams()
    sys.excepthook = show_traceback
    stopped = system.stop_on_signals()
    try:
        code = app(standalone_mode=False) or 0
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = 130 if stopped else fail(error)  # an import that is interrupted may raise anything
    if (lost := system.flush_stdout()) and code == 0:
        code = fail(lost)
    sys.exit(code)


def show_traceback(*error: Any) -> None:
    """What Python prints of an error of our own, but its message may quote a stranger's file."""
    note("".join(traceback.format_exception(*error)).rstrip())


def fail(error: Exception) -> int:
    """Prints what went wrong on stderr, and returns the exit code."""
    code, message = explain(error)
    if message:
        note(" ".join(f"tinymem: {message}".split()))
    return code


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and one line for the user, "" for a reader that has gone (`| head -1`).

    Raises an error again if it is a mistake of tinymem.
    """
    if isinstance(error, TinymemError):
        return 2, str(error)
    if isinstance(error, OSError):
        return 1, "" if system.is_broken_pipe(error) else str(error)
    if is_out_of_memory(error):
        return 1, "out of memory; use a smaller base model or shorter memories"
    if hasattr(error, "format_message"):  # wrong usage; typer does not export the class
        message = error.format_message()
        return 2, f"{message}{'' if message.endswith(('.', '?')) else '.'} See tinymem --help."
    raise error
