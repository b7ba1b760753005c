"""Options: typer shows them, commands get them whole, and none is lost on the way."""

import ast
import dataclasses
import importlib
import inspect
import itertools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import pytest
import typer

from tinymem.base.checkpoint import DTYPES
from tinymem.cli import app as cli, options as opt
from tinymem.cli.output import check_output
from tinymem.cli.source import make_recipe, parse_layers
from tinymem.data.memory import PROMPT
from tinymem.errors import DataError, RecipeError
from tinymem.experiment.grid import Cell
from tinymem.training.recipe import METHODS, OPTIMIZERS, Recipe

GROUPS = (opt.BaseOptions, opt.SourceOptions, opt.RecipeOptions)
COMMANDS = {
    "probe": (opt.Probe, opt.Recall),
    "merge": (opt.Merge,),
    "sweep": (opt.Sweep,),
    "laws": (opt.Fit, opt.Plan),
    "data": (opt.Random, opt.LongContext, opt.Phonebook, opt.Rule),
}
OTHER = {  # a value for each option of training that is not its default
    "layer": "3,1",
    "site": "q_proj, v_proj",
    "zero_active": "zero",
    "steps": 7,
    "epochs": 5,
    "batch_size": 4,
    "accumulate": 3,
    "boundaries": "1,2,3,4",
    "optimizer": "lbfgs",
    "lr": "0.5",
    "dropout": 0.25,
    "stop_when_certified": True,
    "stop_when_recited": True,
}


def test_choices_are_those_of_the_library():
    assert get_args(opt.Method) == METHODS
    assert get_args(opt.Optimizer) == ("auto", *OPTIMIZERS)
    assert get_args(opt.Dtype) == ("auto", *DTYPES)
    assert get_args(get_args(opt.Device)[0]) == ("auto", "cpu", "cuda")  # the contract's
    for choice in get_args(opt.ZeroActive):
        Recipe(zero_active=choice)
    with pytest.raises(RecipeError, match=", ".join(get_args(opt.ZeroActive))):
        Recipe(zero_active="neither")


def test_the_prompt_in_the_help_is_the_default_one():
    assert opt.PROMPT == PROMPT


def make(**options):
    group = opt.RecipeOptions(**options)
    recipe = make_recipe(group, rank=2, method="memft-ot", seed=9)
    return dataclasses.replace(recipe, layers=parse_layers(group.layer, depth=4))


def test_the_defaults_are_those_of_a_recipe():
    assert make() == Recipe(rank=2, method="memft-ot", seed=9)


@pytest.mark.parametrize("name", [field.name for field in fields(opt.RecipeOptions)])
def test_every_option_of_training_arrives_in_the_recipe(name):
    changed = {
        field.name
        for field in fields(Recipe)
        if getattr(make(), field.name) != getattr(make(**{name: OTHER[name]}), field.name)
    }
    assert changed == {{"layer": "layers", "site": "sites"}.get(name, name)}


def test_every_field_of_a_recipe_has_an_option():
    reached = {{"layer": "layers", "site": "sites"}.get(name, name) for name in OTHER}
    own = {"rank", "method", "seed"}  # of the commands themselves
    assert reached | own == {field.name for field in fields(Recipe)} - {"clip", "stop_when_still"}
    assert own <= {field.name for field in fields(opt.Probe)}
    assert {f"{name}s" for name in own} <= {field.name for field in fields(opt.Sweep)}


def test_texts_are_parsed():
    recipe = make(site="q_proj, v_proj", boundaries="1,2,3,4", lr="0.5", layer="3,1")
    assert recipe.sites == ("q_proj", "v_proj") and recipe.boundaries == (1, 2, 3, 4)
    assert recipe.lr == 0.5 and recipe.layers == (3, 1)
    assert make(layer="all").layers == (0, 1, 2, 3) and make(layer="auto").layers is None


@pytest.mark.parametrize("name", ["layer", "lr", "boundaries"])
def test_what_cannot_be_parsed_is_named(name):
    with pytest.raises(RecipeError, match=f"--{name} is 'two'; expected"):
        make(**{name: "two"})


@pytest.mark.parametrize(("file", "commands"), COMMANDS.items())
def test_every_option_is_read_somewhere(file, commands):
    """An option that no code reads would be accepted and ignored."""
    folder = Path(opt.__file__).parent
    read = {
        node.attr
        for name in (file, "source")
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id == "options"
    }
    asked = {field.name for options in commands for field in fields(options)}
    recipe = {field.name for field in fields(opt.RecipeOptions)}  # tested above
    axes = {field.name for field in fields(Cell)} if file == "probe" else set()
    assert asked - recipe - axes <= read


def test_groups_share_no_option():
    """One would replace the other in a command that has both."""
    for one, other in itertools.combinations(GROUPS, 2):
        assert not {field.name for field in fields(one)} & {field.name for field in fields(other)}


ALL = [(file, options) for file, several in COMMANDS.items() for options in several]


@pytest.mark.parametrize(("file", "options"), ALL)
def test_a_command_is_a_function_that_takes_its_options(file, options):
    module = importlib.import_module(f"tinymem.cli.{file}")
    functions = [f for f in vars(module).values() if inspect.isfunction(f)]
    takes = [f for f in functions if options in inspect.get_annotations(f).values()]
    infos = [*cli.app.registered_commands, *cli.data.registered_commands]
    (callback,) = (i.callback for i in infos if i.callback.__doc__ == options.__doc__)
    assert getattr(module, callback.__name__) in takes
    assert inspect.signature(callback).parameters == inspect.signature(options).parameters


@pytest.mark.parametrize(("file", "options"), ALL)
def test_every_option_has_a_help_text(file, options):
    for name, annotation in get_type_hints(options, include_extras=True).items():
        (info,) = annotation.__metadata__
        assert info.help.endswith((".", "?")), name


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Paints a wall."""

    red: Annotated[int, typer.Option()] = 1
    blue: Annotated[bool, typer.Option("--blue")] = False


@dataclass(frozen=True, kw_only=True)
class Wall(Colours):
    """Paints a wall."""

    side: str = "north"


def test_typer_takes_the_fields_and_the_command_gets_them_whole(monkeypatch):
    given = []

    def paint(options):
        given.append(options)
        return 3

    monkeypatch.setattr("tinymem.cli.output.paint", paint, raising=False)
    app = typer.Typer()
    app.command()(cli.command(Wall, "output.paint"))
    assert app(["--red", "5", "--blue", "--side", "south"], standalone_mode=False) == 3
    assert app([], standalone_mode=False) == 3
    assert given == [Wall(red=5, blue=True, side="south"), Wall()]


def test_places_for_results_are_checked(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "x", tmp_path / "file" / "x"):
        with pytest.raises(DataError, match="not a folder with write access"):
            check_output(path)
        with pytest.raises(DataError, match="not a folder with write access"):
            check_output(plot=path.with_suffix(".png"))
        with pytest.raises(DataError, match="not a folder with write access"):
            check_output(html=path.with_suffix(".html"))
    check_output(tmp_path / "x", tmp_path / "a.SVG", tmp_path / "a.HTML")
    check_output()
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    with pytest.raises(DataError, match=r"ends in .png, .pdf or .svg"):
        check_output(tmp_path / "x", tmp_path / "a.gif")
    with pytest.raises(DataError, match=r"--html .*: expected a name that ends in .html"):
        check_output(tmp_path / "x", html=tmp_path / "a.htm")


LBFGS, ADAMW = ("lbfgs", 500, True, True), ("adamw", 2000, True, False)


@pytest.mark.parametrize(
    ("options", "method", "expected"),  # optimizer, steps, stop_when_recited, stop_when_still
    [
        ({}, "sft", LBFGS),
        ({}, "margin", ("lbfgs", 500, True, False)),  # its temperature falls to the last step
        ({}, "memft-sw", ADAMW),
        ({"steps": 30}, "sft", ("lbfgs", 30, True, True)),
        ({"lr": "0.1"}, "sft", ADAMW),
        ({"dropout": 0.1}, "memft-ot", ADAMW),
        ({"batch_size": 4}, "sft", ADAMW),
        ({"optimizer": "adamw"}, "sft", ADAMW),
        ({"stop_when_certified": True}, "sft", ("lbfgs", 500, False, True)),
        ({"full": True}, "sft", ("adamw", 2000, False, False)),
        ({"full": True, "optimizer": "lbfgs"}, "sft", ("lbfgs", 2000, False, False)),
        ({"full": True, "stop_when_recited": True}, "sft", ("adamw", 2000, True, False)),
    ],
)
def test_how_a_probe_ends(options, method, expected):
    recipe = make_recipe(opt.Probe(**options), rank=2, method=method, seed=0)
    names = ("optimizer", "steps", "stop_when_recited", "stop_when_still")
    assert tuple(getattr(recipe, name) for name in names) == expected


def test_a_sweep_runs_all_steps_of_the_papers_recipe():
    recipe = make_recipe(opt.Sweep(out=Path("x")), rank=2, method="sft", seed=0)
    assert recipe == Recipe(rank=2, seed=0)
