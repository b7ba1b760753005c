"""What can be wrong with the input. Every message says what, where, and what to do, in one line."""


class TinymemError(ValueError):
    """Base of all errors about input; the command line prints it and exits with code 2."""


class CheckpointError(TinymemError):
    """A base model's folder, hub id, config, tokenizer or weights."""


class AdapterError(TinymemError):
    """A saved unit, or attaching, detaching and merging one."""


class DataError(TinymemError):
    """A text, a memory, or a file of memories."""


class RecipeError(TinymemError):
    """An argument of training: rank, layer, site, method, steps, …"""


class LawError(TinymemError):
    """A law that cannot be identified, or rows that do not make a grid."""


def is_out_of_memory(error: BaseException) -> bool:
    """torch says it with a RuntimeError, on the CPU and on the GPU in different words."""
    signs = "out of memory", "can't allocate memory", "alloc_cpu", "CUBLAS_STATUS_ALLOC_FAILED"
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def first_line(error: BaseException) -> str:
    """What another library's error says, for one line of ours."""
    return (str(error).strip() or "no details").splitlines()[0]
