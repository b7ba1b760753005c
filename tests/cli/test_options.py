"""Option groups: typer shows their options, commands get them whole, and no option is lost."""

import ast
import dataclasses
import inspect
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import pytest
import typer

from tinymem.base.checkpoint import DTYPES
from tinymem.cli import options as opt
from tinymem.cli.laws import fit, plan
from tinymem.cli.probe import probe, recall
from tinymem.cli.sweep import sweep
from tinymem.data.memory import PROMPT
from tinymem.errors import DataError, RecipeError
from tinymem.training.memft import METHODS
from tinymem.training.recipe import OPTIMIZERS, Recipe

GROUPS = (opt.BaseOptions, opt.SourceOptions, opt.RecipeOptions)
OTHER = {  # a value for each option of training that is not its default
    "layer": "3,1",
    "site": "q_proj, v_proj",
    "zero_active": opt.ZeroActive.zero,
    "steps": 7,
    "epochs": 5,
    "batch_size": 4,
    "accumulate": 3,
    "boundaries": "1,2,3,4",
    "optimizer": opt.Optimizer.lbfgs,
    "lr": "0.5",
    "dropout": 0.25,
    "stop_when_certified": True,
}


def values(choices):
    return tuple(choice.value for choice in choices)


def test_choices_are_those_of_the_library():
    assert values(opt.Method) == METHODS
    assert values(opt.Optimizer) == OPTIMIZERS
    assert values(opt.Dtype) == ("auto", *DTYPES)
    assert values(opt.Device) == ("auto", "cpu", "cuda")  # the contract's
    for choice in opt.ZeroActive:
        Recipe(zero_active=choice.value)
    with pytest.raises(RecipeError, match=", ".join(values(opt.ZeroActive))):
        Recipe(zero_active="neither")


def test_the_prompt_in_the_help_is_the_default_one():
    assert opt.DEFAULT_PROMPT == PROMPT


def make(**options):
    group = opt.RecipeOptions(**options)
    recipe = group.recipe(rank=2, method="memft-ot", seed=9)
    return dataclasses.replace(recipe, layers=group.layers(depth=4))


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
    assert reached | own == {field.name for field in fields(Recipe)} - {"clip"}
    assert own <= set(inspect.signature(probe).parameters)
    assert {f"{name}s" for name in own} <= set(inspect.signature(sweep).parameters)


def test_texts_are_parsed():
    recipe = make(site="q_proj, v_proj", boundaries="1,2,3,4", lr="0.5", layer="3,1")
    assert recipe.sites == ("q_proj", "v_proj") and recipe.boundaries == (1, 2, 3, 4)
    assert recipe.lr == 0.5 and recipe.layers == (3, 1)
    assert make(layer="all").layers == (0, 1, 2, 3) and make(layer="auto").layers is None


@pytest.mark.parametrize("name", ["layer", "lr", "boundaries"])
def test_what_cannot_be_parsed_is_named(name):
    with pytest.raises(RecipeError, match=f"--{name} is 'two'; expected"):
        opt.RecipeOptions(**{name: "two"}).recipe(rank=1, method="sft", seed=0)


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_a_group_is_read_somewhere(group):
    """An option that no code reads would be accepted and ignored."""
    holders = {"self", "options", "base", "memories", "training"}
    read = {
        node.attr
        for path in Path(opt.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        for held in [node.value]
        if getattr(held, "id", getattr(held, "attr", None)) in holders
    }
    assert {field.name for field in fields(group)} <= read


@pytest.mark.parametrize("command", [probe, sweep])
def test_commands_show_the_options_of_all_groups(command):
    shown = inspect.signature(command).parameters
    for group in GROUPS:
        for field in fields(group):
            assert shown[field.name].default == field.default
    assert not {"base", "memories", "training"} & set(shown)


@pytest.mark.parametrize("command", [probe, recall, sweep, fit, plan])
def test_every_option_has_a_help_text(command):
    for parameter in inspect.signature(command).parameters.values():
        (info,) = parameter.annotation.__metadata__
        assert info.help.endswith((".", "?")), parameter.name


@dataclass(frozen=True, kw_only=True)
class Colours:
    red: Annotated[int, typer.Option()] = 1
    blue: Annotated[bool, typer.Option("--blue")] = False


def test_a_group_is_taken_apart_for_typer_and_put_together_for_the_command(capsys):
    @opt.with_groups
    def paint(*, wall: str = "north", colours: Colours) -> int:
        print(wall, colours)
        return 3

    app = typer.Typer()
    app.command()(paint)
    assert app(["--red", "5", "--blue", "--wall", "south"], standalone_mode=False) == 3
    assert capsys.readouterr().out == f"south {Colours(red=5, blue=True)}\n"
    assert app([], standalone_mode=False) == 3
    assert capsys.readouterr().out == f"north {Colours()}\n"


def test_two_options_of_one_name_are_refused():
    def paint(*, red: int = 1, colours: Colours) -> int: ...

    with pytest.raises(ValueError, match="red"):
        opt.with_groups(paint)


def test_places_for_results_are_checked(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "x", tmp_path / "file" / "x"):
        with pytest.raises(DataError, match="not a folder with write access"):
            opt.check_parent(path)
    opt.check_parent(tmp_path / "x")
    opt.check_new_folder(tmp_path / "new")
    with pytest.raises(DataError, match="exists and is not empty"):
        opt.check_new_folder(tmp_path / "file")
    opt.check_plot(tmp_path / "a.SVG")
    with pytest.raises(DataError, match=r"ends in .png, .pdf or .svg"):
        opt.check_plot(tmp_path / "a.gif")
