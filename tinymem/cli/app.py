"""The command line: its commands, exit codes and signals.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done; 1 the run itself failed;
2 wrong usage or bad input, with one line that says what is wrong; 130 interrupted.
"""

import signal
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import TinymemError, is_out_of_memory
from . import data, laws, probe, sweep

app = typer.Typer(pretty_exceptions_enable=False)
for command, example in (
    (probe.probe, "probe --model gpt2 --rank 8 --length 128 --out run"),
    (sweep.sweep, "sweep --ranks 1,2,4,8 --lengths 32,64,128 --out grid"),
    (laws.fit, "fit grid --plot law.png"),
    (laws.plan, "plan grid --length 200"),
    (probe.recall, "recall run"),
):
    app.command(epilog=f"Example: tinymem {example}")(command)
app.add_typer(data.app, name="data")


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


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    signal.signal(signal.SIGTERM, interrupt)  # a request to stop is treated like Ctrl-C
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code, message = explain(error)
        print(f"tinymem: {message}", file=sys.stderr)
    sys.exit(code)


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and one line for the user. Raises an error again if it is a mistake of tinymem."""
    if isinstance(error, TinymemError):
        return 2, " ".join(str(error).split())
    if isinstance(error, OSError):
        return 1, str(error)
    if is_out_of_memory(error):
        return 1, "out of memory; use a smaller base model or shorter memories"
    if hasattr(error, "format_message"):  # wrong usage; typer does not export the class
        message = error.format_message()
        return 2, f"{message}{'' if message.endswith(('.', '?')) else '.'} See tinymem --help."
    raise error
