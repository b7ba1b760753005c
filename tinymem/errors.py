"""Errors about input. Each message is one line: what is wrong, where, and what to do."""


class TinymemError(ValueError):
    """Base class of all errors about input; the command line prints it and exits with code 2."""


class CheckpointError(TinymemError):
    """The folder, hub id, config, tokenizer or weights of a base model are not usable."""


class AdapterError(TinymemError):
    """A unit cannot be loaded, saved, attached, detached or merged."""


class DataError(TinymemError):
    """A text, a memory, a file of memories or a file of results is not usable."""


class RecipeError(TinymemError):
    """A training option is not usable: rank, layer, site, method, steps, …"""


class LawError(TinymemError):
    """The measured runs do not determine a law, or a law does not answer the question."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a CPU or a GPU; torch has no single exception class for it."""
    signs = (
        *("out of memory", "can't allocate memory", "alloc_cpu", "CUBLAS_STATUS_ALLOC_FAILED"),
        "unable to mmap",  # a file that is larger than the memory
    )
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted in a message of one line."""
    return (str(error).strip() or "no details").splitlines()[0]
