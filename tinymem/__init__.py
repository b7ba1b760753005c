"""tinymem: how much can a LoRA of rank r remember, exactly?

Public names are imported when they are first used, so that `import tinymem` and `tinymem --help` do
not load torch. In reading order, the packages are base, data, unit, training, experiment, law, show
and cli.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_NAMES = {  # module -> the public names that it defines
    "errors": "AdapterError CheckpointError DataError LawError RecipeError TinymemError",
    "base.config": "ModelConfig",
    "base.model": "Model greedy",
    "base.tokenizer": "Tokenizer",
    "base.progress": "SILENT Progress bars",
    "base.generate": "generate",
    "base.checkpoint": "load",
    "data.memory": "Memory random_memory text_memory",
    "data.read": "read_memories",
    "unit.lora": "Unit",
    "unit.adapter": "load_adapter save_adapter",
    "training.recipe": "Recipe",
    "experiment.recall": "Verdict judge",
    "experiment.probe": "memorize memorize_together",
    "experiment.report": "Result",
    "experiment.grid": "make_grid",
    "experiment.sweep": "run_sweep",
    "experiment.rows": "read_rows",
    "law.power": "Law fit_law",
    "law.bits": "BitsLaw fit_bits",
    "law.recall": "RecallLaw compare_loads fit_recall",
    "law.fit": "Fit fit_rows",
    "law.plan": "plan_rank plan_length",
    "law.recite": "recite_rank recite_length",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:  # the same names for editors and type checkers, which do not run __getattr__
    from .base.checkpoint import load as load
    from .base.config import ModelConfig as ModelConfig
    from .base.generate import generate as generate
    from .base.model import Model as Model, greedy as greedy
    from .base.progress import SILENT as SILENT, Progress as Progress, bars as bars
    from .base.tokenizer import Tokenizer as Tokenizer
    from .data.memory import (
        Memory as Memory,
        random_memory as random_memory,
        text_memory as text_memory,
    )
    from .data.read import read_memories as read_memories
    from .errors import (
        AdapterError as AdapterError,
        CheckpointError as CheckpointError,
        DataError as DataError,
        LawError as LawError,
        RecipeError as RecipeError,
        TinymemError as TinymemError,
    )
    from .experiment.grid import make_grid as make_grid
    from .experiment.probe import memorize as memorize, memorize_together as memorize_together
    from .experiment.recall import Verdict as Verdict, judge as judge
    from .experiment.report import Result as Result
    from .experiment.rows import read_rows as read_rows
    from .experiment.sweep import run_sweep as run_sweep
    from .law.bits import BitsLaw as BitsLaw, fit_bits as fit_bits
    from .law.fit import Fit as Fit, fit_rows as fit_rows
    from .law.plan import plan_length as plan_length, plan_rank as plan_rank
    from .law.power import Law as Law, fit_law as fit_law
    from .law.recall import (
        RecallLaw as RecallLaw,
        compare_loads as compare_loads,
        fit_recall as fit_recall,
    )
    from .law.recite import recite_length as recite_length, recite_rank as recite_rank
    from .training.recipe import Recipe as Recipe
    from .unit.adapter import load_adapter as load_adapter, save_adapter as save_adapter
    from .unit.lora import Unit as Unit
else:

    def __getattr__(name: str) -> object:
        """Imports a public name from its module on first use."""
        if name not in _HOME:
            raise AttributeError(f"module 'tinymem' has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
