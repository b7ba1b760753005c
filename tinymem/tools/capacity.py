"""Is an adapter full? Compares what it holds of a text with a recorded study of what units recite.

The study is `tiny-recall` of tutorials/reproduction/recall.md: units beside the MLP of one layer of
the base model `tiny`, random tokens, trained with sft. tutorials/reproduction/recall.py fits the
recall law (law/recall.py) to its runs and writes it to recall-law.json beside this file.

What is comparable: the load, tokens of the text per parameter, because a token that is to be the
argmax is one pattern for the weights, whatever it is about. It is a guide and not a promise. The
base is another one: units of rank 1 on SmolLM2-135M recite twice as many tokens per parameter as
the law says (smollm2-margin, sft). A text is easier than random tokens, and an adapter that was
trained on more than this text holds other things too. Adapters with more parameters than the
largest unit of the study are taken to recite as many tokens per parameter as that one, and no more.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..law.recall import RecallLaw
from ..law.recite import smallest_rank

PATH = Path(__file__).with_name("recall-law.json")
RECITE = 0.9  # the probability with which the rank that a text needs recites it


def read_law() -> tuple[dict[str, Any], RecallLaw]:
    """What the study measured (model, layer, site, method, steps), and its law as one curve."""
    content = json.loads(PATH.read_text(encoding="utf-8"))
    law = content["law"]
    curve = [[math.log(law["load_50"]), law["s"], law["rank_exponent"]]]
    law |= {"measured": tuple(law["measured"]), "draws": np.array(curve)}
    return content["study"], RecallLaw(**law)


def compare_with_study(length: int, parameters: int, rank: int | None) -> dict[str, Any]:
    """The field `capacity` of the report of an adapter; loads in tokens of a text per parameter.

    length: tokens of the text. parameters: of the adapter. rank: None if its LoRAs have different
    ones; which rank is needed is then unknown. Units of more or fewer parameters than the study's
    are never taken to be better, per parameter, than its nearest (RecallLaw.chance).
    """
    study, law = read_law()
    nearest = min(max(parameters, law.measured[0]), law.measured[-1])
    load_50 = float(np.minimum(law.half(parameters), law.half(nearest)))
    needed = None
    if rank is not None:
        own = replace(law, parameters_per_rank=parameters / rank)
        needed = smallest_rank(own, length, RECITE)
    return {
        "load": length / parameters,
        "load_50": load_50,
        "load_90": load_50 / 9 ** (1 / law.s),
        "bits_per_parameter_50": load_50 * (law.bits_per_token or math.nan),
        "rank_needed": needed,
        "study": study,
    }
