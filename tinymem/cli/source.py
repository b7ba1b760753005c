"""From options to what a run needs: base model, recipe and memories.

Whatever cannot work is refused here, before the weights are read.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from ..base.checkpoint import Checkpoint, open_checkpoint
from ..base.folder import present
from ..base.tokenizer import Tokenizer
from ..data.batch import Batch
from ..data.memory import PROMPT, Memory, check_fits, first_tokens, random_memory, text_memory
from ..data.read import read_memories
from ..errors import AdapterError, DataError, LawError, RecipeError
from ..experiment.grid import Grid, check_grid, make_grid
from ..experiment.recall import teacher_forced
from ..files import decode_text, read_limited, read_text
from ..show.progress import Bars
from ..show.report import stderr
from ..training.recipe import STEADY, Recipe
from ..unit.sites import unit_shapes
from . import options as opt

NAME = r"\w[\w-]{0,95}(\.[\w-]{1,95})*"
HUB_ID = re.compile(rf"{NAME}(/{NAME})?", re.ASCII)
REVISION = re.compile(rf"{NAME}(/{NAME})*", re.ASCII)  # a branch may have several parts
T = TypeVar("T")
EARLY_STEPS = 500
NOT_DECISIVE = ("out", "json", "plot", "html")  # of a probe: they say what to do with the result
Make = Callable[[int | None, int | None, int], list[Memory]]  # from (length, ratio, seed)


def prepare(
    options: opt.Probe | opt.Sweep, **axes: Sequence[Any]
) -> tuple[Checkpoint, Recipe, Grid, list[Memory], str | None]:
    """Opens the base model and makes the memories of a grid; a probe is a grid of one cell.

    axes: ranks, lengths, ratios, methods and seeds, as make_grid takes them. Returns the base
    model, the recipe (cells differ from it in rank, method and seed), the grid, the held-out
    memories, and the text that --text names, None without it.
    Raises a TinymemError for options that no run could use; what can be checked without the model
    is checked before it is opened, which may take a download.
    """
    for rank, method, seed in product(axes["ranks"], axes["methods"], axes["seeds"]):
        recipe = make_recipe(options, rank, method, seed)  # raises for a wrong value
    parse_layers(options.layer, depth=1)
    check_source(options, axes["lengths"], axes["ratios"])
    content = None if options.text is None else read_content(options.text)
    checkpoint = open_checkpoint(options.model, options.revision)
    shapes = checkpoint.shapes()
    recipe = replace(recipe, layers=parse_layers(options.layer, shapes.config.num_layers))
    for rank in axes["ranks"]:
        unit_shapes(shapes, rank, recipe.sites, recipe.layers)
    make, held_out = read_source(options, content, checkpoint.tokenizer, shapes.config.context)
    grid = make_grid(make, **axes)
    check_grid(grid, held_out, shapes)
    return checkpoint, recipe, grid, held_out, content


def make_recipe(options: opt.RecipeOptions, rank: int, method: str, seed: int) -> Recipe:
    """The recipe without its layers, which need the depth of the model. Raises RecipeError."""
    given: dict[str, Any] = {f.name: getattr(options, f.name) for f in fields(opt.RecipeOptions)}
    del given["layer"]
    given["sites"] = parse_names(given.pop("site"))
    given["boundaries"] = parse_list("--boundaries", options.boundaries) or None
    if options.lr == "auto":
        given["lr"] = None
    else:
        given["lr"] = parse("--lr", options.lr, float, "a number or auto")
    given |= find_end(options, method)
    return Recipe(rank=rank, method=method, seed=seed, **given)


def find_end(options: opt.RecipeOptions, method: str) -> dict[str, Any]:
    """Optimizer, steps, and what ends the run before they are done.

    A probe ends early, by L-BFGS, whose loss falls about as far in EARLY_STEPS as AdamW's in 2,000.
    It takes AdamW where an option needs it, and then runs all its steps unless it recites.
    """
    steps, optimizer = options.steps, options.optimizer
    early = isinstance(options, opt.Probe) and not options.full
    if optimizer == "auto":
        needed = options.lr != "auto" or options.dropout or options.batch_size is not None
        optimizer = "lbfgs" if early and not needed and method != "memft-sw" else "adamw"
    if steps is None:
        steps = EARLY_STEPS if early and optimizer == "lbfgs" else Recipe.steps
    still = early and optimizer == "lbfgs" and method in STEADY
    recited = options.stop_when_recited or (early and not options.stop_when_certified)
    ends = {"stop_when_recited": recited, "stop_when_still": still}
    return {"steps": steps, "optimizer": optimizer, **ends}


def check_source(
    options: opt.SourceOptions, lengths: Sequence[int | None], ratios: Sequence[int | None]
) -> None:
    """Raises DataError for options that exclude each other or that no memory could have."""
    given = [ratio for ratio in ratios if ratio is not None]
    if options.data is not None:
        others = {"--text": options.text, "--ratio": given or None, "--prompt": options.prompt}
        for flag, value in others.items():
            if value is not None:
                raise DataError(f"--data and {flag} exclude each other; --data has whole memories")
    for ratio in given:
        if not 0 <= ratio <= 100:
            raise DataError(f"--ratio is {ratio}; it is a percentage, 0 to 100")
        if options.text is None and ratio != 100:
            raise DataError(f"--ratio {ratio} needs a text to mix random tokens into; use --text")
    for length in lengths:
        if length is not None and length < 1:
            raise DataError(f"--length is {length}; a memory has at least one token")


def read_source(
    options: opt.SourceOptions, text: str | None, tokenizer: Tokenizer, context: int
) -> tuple[Make, list[Memory]]:
    """A function that makes the memories, and the held-out memories, for a model of this context.

    The function is asked for a length, or for None: 128 random tokens, or all of the text or file.
    Raises DataError, and so does the function.
    """
    read = partial(read_memories, tokenizer=tokenizer, chat=options.chat)
    held_out = [] if options.held_out is None else read(options.held_out)
    data = [] if options.data is None else read(options.data)
    prompt = PROMPT if options.prompt is None else options.prompt

    def make(length: int | None, ratio: int | None, seed: int) -> list[Memory]:
        if data:
            return data if length is None else first_tokens(data, length)
        if length is not None and length >= context:  # before so many are drawn
            raise DataError(f"--length {length} and a prompt exceed the context of {context}")
        how: Any = {"seed": seed, "prompt": prompt, "chat": options.chat}
        if text is not None:
            return [text_memory(tokenizer, text, length=length, ratio=ratio or 0, **how)]
        return [random_memory(tokenizer, 128 if length is None else length, **how)]

    return make, held_out


def describe(options: opt.SourceOptions, text: str | None) -> dict[str, Any]:
    """What distinguishes these memories from others; it goes into the rows of a sweep.

    Files go in by the start of their SHA-256, so that a changed file is another source.
    """
    contents = {"text": None if text is None else text.encode()}
    for name, path in (("data", options.data), ("held_out", options.held_out)):
        contents[name] = None if path is None else path.read_bytes()
    hashes = {k: v and hashlib.sha256(v).hexdigest()[:16] for k, v in contents.items()}
    return {"prompt": options.prompt, "chat": options.chat, **hashes}


def describe_command(options: opt.Probe, text: str | None) -> dict[str, Any]:
    """Everything that decides a probe, by the names of its options; files by their hashes."""
    given = {f.name: getattr(options, f.name) for f in fields(options)}
    return {k: v for k, v in given.items() if k not in NOT_DECISIVE} | describe(options, text)


def find_base(
    named: Mapping[str, Any], where: Path, model: str, revision: str | None = None
) -> tuple[str, str | None]:
    """Name and revision of a base model: what the user says, or else what a unit or a row says.

    Units and rows may come from a stranger, who must not choose freely what is opened. Raises
    AdapterError unless they name tiny, a hub id or a checkpoint's folder without "..", and a plain
    revision.
    """
    if not revision and (revision := named["revision"]) and not REVISION.fullmatch(revision):
        problem = f"names the revision {revision!r:.80}; give it with --revision"
        raise AdapterError(f"{where}: {problem}")
    if model:
        return model, revision
    name = named["model"]
    path = Path(os.path.expanduser(name))
    far = name.startswith(("//", "\\\\")) or ".." in path.parts  # another machine, or place
    folder = not far and os.path.isdir(path) and present(path, "config.json")
    if not folder and not HUB_ID.fullmatch(name):
        problem = f"names the base model {name!r:.80}, neither a hub id nor a checkpoint's folder"
        raise AdapterError(f"{where}: {problem}; give the base with --model")
    return name, revision


def measure_text(options: opt.Plan, path: Path, row: dict[str, Any]) -> tuple[int, float]:
    """Tokens of a text and its loss on the base model and with the prompt of the sweep of `row`.

    Raises LawError for a row that does not name them, or not as a sweep does.
    """
    setting = row.get("setting") or {}
    if not options.model and row.get("model") is None:
        raise LawError("the rows do not name their base model; give it with --model")
    if not isinstance(setting, dict):
        raise LawError(f"{row['_where']}: setting is {setting!r:.60}; expected an object")
    prompt, dtype = setting.get("prompt"), row.get("dtype") or "auto"
    texts = {"model": row.get("model"), "revision": row.get("revision"), "prompt": prompt}
    for field, value in {**texts, "dtype": dtype}.items():
        if not isinstance(value, str | None):
            raise LawError(f"{row['_where']}: {field} is {value!r:.60}; expected text")
    name, revision = find_base({**texts}, options.results, options.model)
    if not options.model:
        stderr.print(f"base model of these rows: {name}", markup=False, soft_wrap=True)
    checkpoint = open_checkpoint(name, revision)
    source = opt.SourceOptions(prompt=prompt, chat=setting.get("chat") is not False)
    content, config = read_content(path), checkpoint.config
    make, _ = read_source(source, content, checkpoint.tokenizer, config.context)
    (memory,) = check_fits(make(None, None, 0), config)
    with Bars() as bars:
        base = checkpoint.weights(options.device, dtype, bars)
    found = teacher_forced(base, Batch([memory], config.context, base.device))
    return memory.length, found.losses.mean().item()


def read_content(path: Path) -> str:
    """The text of a UTF-8 file, or of stdin for the path "-". Raises DataError."""
    if str(path) != "-":
        return read_text(path)
    if sys.stdin is None:
        raise DataError("--text -: there is no stdin to read")
    return decode_text(read_limited(sys.stdin.buffer, "stdin"), "stdin")


def parse(flag: str, value: str, read: Callable[[str], T], expected: str) -> T:
    """What `read` makes of the option's value. Raises RecipeError if it raises ValueError."""
    try:
        return read(value)
    except ValueError:
        raise RecipeError(f"{flag} is {value!r}; expected {expected}") from None


def parse_names(value: str) -> tuple[str, ...]:
    """ "q_proj, v_proj" -> ("q_proj", "v_proj")."""
    return tuple(part.strip() for part in value.split(","))


def numbers(value: str) -> tuple[int, ...]:
    """ "1,2,4" -> (1, 2, 4). Raises ValueError."""
    return tuple(int(part) for part in value.split(","))


def parse_list(flag: str, value: str | None) -> tuple[int, ...]:
    """ "1,2,4" -> (1, 2, 4); None -> (). Raises RecipeError."""
    expected = "whole numbers with commas between them"
    return () if value is None else parse(flag, value, numbers, expected)


def parse_layers(value: str, depth: int) -> tuple[int, ...] | None:
    """ "auto" -> None, "all" -> every layer, "3,5" -> (3, 5). Raises RecipeError."""
    if value in ("auto", "all"):
        return None if value == "auto" else tuple(range(depth))
    return parse("--layer", value, numbers, "a number, numbers with commas, all or auto")
