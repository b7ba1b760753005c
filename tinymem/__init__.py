"""tinymem: how much can a LoRA of rank r remember, exactly?

Names are imported on first use, so that `import tinymem` and `tinymem --help` do not wait for torch.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "AdapterError": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
    "LawError": "errors",
    "RecipeError": "errors",
    "TinymemError": "errors",
    "Memory": "data.memory",
    "random_memory": "data.memory",
    "text_memory": "data.memory",
    "read_memories": "data.memory",
    "Model": "base.model",
    "ModelConfig": "base.model",
    "greedy": "base.model",
    "load": "base.checkpoint",
    "Tokenizer": "base.tokenizer",
    "Unit": "unit.lora",
    "load_adapter": "unit.adapter",
    "save_adapter": "unit.adapter",
    "Recipe": "training.recipe",
    "Result": "experiment.probe",
    "memorize": "experiment.probe",
    "memorize_together": "experiment.probe",
    "Verdict": "experiment.recall",
    "judge": "experiment.recall",
    "make_grid": "experiment.sweep",
    "run_sweep": "experiment.sweep",
    "read_rows": "experiment.rows",
    "Law": "law.power",
    "BitsLaw": "law.bits",
    "fit_law": "law.power",
    "fit_bits": "law.bits",
    "Fit": "law.fit",
    "fit_rows": "law.fit",
    "plan_rank": "law.plan",
    "plan_length": "law.plan",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'tinymem' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
