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
    "Memory": "memory",
    "random_memory": "memory",
    "text_memory": "memory",
    "read_memories": "memory",
    "Model": "model",
    "ModelConfig": "model",
    "greedy": "model",
    "load": "checkpoint",
    "Tokenizer": "text",
    "Unit": "lora",
    "load_adapter": "adapter",
    "save_adapter": "adapter",
    "Recipe": "recipe",
    "Result": "probe",
    "memorize": "probe",
    "memorize_together": "probe",
    "Verdict": "recall",
    "judge": "recall",
    "make_grid": "sweep",
    "run_sweep": "sweep",
    "read_rows": "files",
    "Law": "law",
    "BitsLaw": "bits",
    "fit_law": "law",
    "fit_bits": "bits",
    "Fit": "fit",
    "fit_rows": "fit",
    "plan_rank": "plan",
    "plan_length": "plan",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'tinymem' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
