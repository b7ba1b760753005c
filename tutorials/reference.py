"""Writes tutorials/reference.md: python tutorials/reference.py

Options, fields and supported models are read from the code: from the commands' signatures, the
dataclasses and the comments beside their fields, and the table of families. What the code cannot
say about itself is written out below.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from typer.main import get_command

import tinymem as tm
from tinymem.base.checkpoint import load
from tinymem.base.families import FAMILIES
from tinymem.base.progress import SILENT
from tinymem.cli import app as cli, options as opt
from tinymem.cli.source import describe
from tinymem.data.memory import random_memory
from tinymem.data.read import ID_PAIR, TEXT_PAIRS
from tinymem.experiment.grid import AXES
from tinymem.experiment.report import Report
from tinymem.law.bits import BitsLaw
from tinymem.law.fit import Fit, fit_rows
from tinymem.law.plan import Plan
from tinymem.law.power import Law
from tinymem.law.recall import RecallLaw, recall_of
from tinymem.law.recite import RecitePlan
from tinymem.tools.judge import judge_memories, judge_report
from tinymem.training.margin import THIN, THIN_IN_BFLOAT16
from tinymem.training.recipe import Recipe

PATH = Path(__file__).with_suffix(".md")
GROUPS = {
    "Base model": opt.BaseOptions,
    "What to memorize": opt.SourceOptions,
    "Unit and training": opt.RecipeOptions,
}
TYPES = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
    list: "list",
}

# --- Text that the code does not know ------------------------------------------------------------

OPENING = """
# Reference

Every command, option, field and file format of tinymem. This page is made from the code by
`python tutorials/reference.py`. How it all works is explained in the [course](README.md).

- [Commands](#commands)
- [The report of a run](#the-report-of-a-run)
- [The answer of `judge --json`](#the-answer-of-judge---json)
- [Rows of a sweep](#rows-of-a-sweep)
- [The law: `fit --json`](#the-law-fit---json)
- [The plan: `plan --json`](#the-plan-plan---json)
- [The pages: `--html`](#the-pages---html)
- [In Python](#in-python)
- [Files](#files)
- [Base models](#base-models)
- [Environment variables](#environment-variables)
- [Exit codes](#exit-codes)
- [Security](#security)
- [Promises](#promises)
"""

COMMANDS = """
## Commands

`tinymem COMMAND --help` shows the options in the terminal, and `tinymem --install-completion`
makes the shell complete commands, options, choices and file names. Results go to stdout;
progress, notes and errors go to stderr. `python -m tinymem` is the same program, and `tinymem
--version` prints its version. In the tables below, an option without a default is off, or takes
no part.
"""

NOTES = {
    "probe": """
The target is one of three things: random tokens (the default), a text (`--text`), or a file of
memories (`--data`). Random tokens are drawn as ids from the vocabulary without its special
tokens.

`--length` takes the first tokens of a text. Of a file it takes the first memories, as many as
have at most so many target tokens together; if the first one alone is longer, it is cut.
`--ratio` replaces this percentage of a text's tokens, at random places, by random ones.

`--method` decides what a step trains. `sft` (supervised fine-tuning) trains on all target tokens,
`memft-ot` only on tokens with p ≤ ½. `memft-sw` with one memory weights tokens by a window that
starts at the first wrong one. With several memories it is memft-ot on more and more of them; see
`--boundaries`. These three are the paper's.

`margin` is tinymem's own. Decoding does not need p > ½: it needs the logit of the target token
above every other one. All tokens are trained, with the cross-entropy of the logits divided by a
temperature T, times T. T falls over the run from 1, where this is sft, towards 0, where a token
that is already the likeliest has no gradient. The unit recites more, at a higher loss.

A probe answers its question and ends; `ended` in the report says why. It trains by L-BFGS, for at
most 500 evaluations of the gradient, and ends when every margin is clearly above 0, or when the
loss stands still: the second half of the steps has lowered it by less than 5 %, and the number of
wrong tokens by less than 25 %. Under `margin`, whose temperature falls to the last step, only the
first of these ends it. Bits of a run that ended early are lower bounds. `memft-sw`, `--lr`,
`--dropout` and `--batch-size` need AdamW, which takes its 2,000 steps unless the memory is recited.
With `--stop-when-certified` a probe goes on until every p > ½.

`--full` is the paper's recipe to its last step, for a loss to compare with others. `sweep` and
`tm.memorize` do all steps, too, unless they are told to stop when recited or certified.
""",
    "sweep": """
The grid is the product of all lists. Cells whose memories have the same lengths train together,
as one batch. A cell is written to `results.jsonl` when it is finished, and never changed. A
sweep that is killed loses only the cells that are training at that moment; started again, it
computes what is missing, also if ranks, lengths, ratios, methods or seeds have been added. Any
other change that would change the numbers (weights of the base model, recipe, prompt, text) is
refused, with the difference.

Several GPUs, or several processes on a CPU, share one sweep:
`torchrun --nproc-per-node 2 -m tinymem sweep …`
""",
    "fit": """
The law is ΔL = C·r^α·ℓ^−β + b, fitted to all cells that are not saturated. A cell is saturated
when its final loss is at most ln 2 = 0.693 nats per token. Rows that differ in model, layer,
site or method get a law each. Rows may be written by hand; a row needs `rank`, `length` and
`delta_loss` (or `base_loss` and `final_loss`). Without `--no-offset`, b is fitted too.

Rows with `trainable_parameters` and `recall_exact` also give the recall law: the load, in tokens
per parameter, of which half of the runs recite everything. It needs runs that are recited and
runs that are not.
""",
    "plan": """
Exactly one of `--length`, `--rank` and `--text` is given. The default goal is the certificate,
which stands for p > ½ for every token. The law is the one of the largest group of rows unless
`--method` names another. A text is measured on the base model and with the prompt of the sweep.

`--recite 0.9` plans by the recall law instead: a fresh run recites everything, word for word, with
this probability. It averages over the curves that the measured runs allow, in which ranks may hold
unequal numbers of tokens per parameter; outside the measured ranks, no rank is taken to hold more
per parameter than the nearest measured one.
""",
    "recall": """
The base model, its revision and its precision are those of the run, unless options say
otherwise. The exit code is 1 if the unit does not give the verdict of its report.
""",
    "merge": """
Each matrix W with a LoRA becomes W + (A B)ᵀ, summed in float32 and cast last. All other tensors
are those of the base, bit for bit, in its names and layouts, and a head that is tied to the
embedding stays so. Tokenizer, chat template and `generation_config.json` come along. Weights of
more than 5 GB are split into several files. The folder `--out` is complete, or it is not there.

Without `--dtype`, each tensor has the dtype that it has in the base's files. With it, all weights
have this one. `config.json` states the dtype of the weights, in which transformers loads them. If
there are several, it states the one that the base's config does, or else the widest.

The memories of a run are judged twice: with the unit on its base, and on the folder after the
cast, which can turn a thin margin. The exit code is 1 if they were recited before and are not
afterwards; the folder stays. An adapter of peft's carries no memories, and is merged without a
verdict; `tinymem judge` asks the folder for any text. A unit at the site `mlp` is refused, because
an MLP is not a matrix that A B could be added to, and so is whatever is more than plain LoRA.

| field of `--json` | meaning |
|---|---|
| `model`, `revision` | the base |
| `adapter`, `out` | as given |
| `dtype` | in the written `config.json`: that of the weights |
| `shards` | files of weights |
| `bytes` | of all files |
| `matrices` | matrices with a LoRA |
| `changed` | those that differ from the base after the cast |
| `before`, `after` | the verdicts, with the fields of a report; null without memories |
| `version` | version of tinymem |
""",
    "judge": """
`--model` alone judges a model, such as a base or one that was fine-tuned whole. With `--adapter`
it is the base of a LoRA, tinymem's or peft's; without it, the base is the one that the adapter's
own files name. If a unit of tinymem was written for other weights, it is refused. The files of peft
hold only a name, and the first line asks about the base if the names differ.

A text is asked for with a prompt, as a memory, and must fit into the context. With `--context`,
`--window` or `--stride` it is audited instead, whatever its length: of every window of N tokens,
does greedy decoding from the K tokens before it yield all N (Carlini et al. 2022)? One of the three
is enough; the others are then 32, 50 and 10. Before the K tokens stands the special token with
which the model's texts begin, if it has one, or the prompt if `--prompt` is given. Ctrl-C shows
what was judged until then, and the exit code is 130.

`--expect recited` asks that the text, every memory or every window is recited; `--expect
not-recited` that none is. If some are and others are not, both fail, with the exit code 1.
""",
    "data rule": """
The held-out pairs are written beside the others, in `NAME.held-out.jsonl`, and do not depend on
`--count`. The file is for `--held-out` of `probe` and `sweep`.
""",
    "Base model": """
A folder never uses the network. A hub id is downloaded once, into the cache of `huggingface_hub`.
Units are float32, whatever the precision of the base model.
""",
    "What to memorize": """
`--data` excludes `--text`, `--ratio` and `--prompt`. All memories of a file are written into one
unit.
""",
    "Unit and training": """
The default recipe is the paper's: AdamW without weight decay, a learning rate that falls
linearly to 0, gradients clipped at norm 1. Two things differ: the learning rate, 1e-2 in the
paper, is scaled from the paper's width of 4,096 to the width of the base model, and is at most
0.1; and there is no dropout. `--lr auto` was measured at the site `mlp`.

`--optimizer lbfgs` trains one run at a time, on all memories at once, without `--lr`,
`--dropout` or `--batch-size`. It keeps the weights of MemFT fixed for rounds of 5 iterations.

Several memories train as one batch, or in minibatches of `--batch-size`, shuffled anew in each
epoch. Under `memft-sw` they are shuffled once, and `--boundaries` says in which epochs training
goes on to the first 40, 60, 80 and 100 % of them.
""",
}

REPORT = """
## The report of a run

`tinymem probe --json` prints it, and `--out` writes it to `report.json`. `null` stands for what
is not known, or was not reached. `tinymem recall --json` prints the report with the verdict
computed again, and adds `agrees`: whether both verdicts are the same and the losses are within
1e-3 nats per token. Reports of older versions, which lack some fields, can be recalled too.

The margin of a target token is its logit less the largest other one, given the prompt and the
true target before it. Greedy decoding recites the target if and only if every margin is above 0,
in the same arithmetic. `thin` warns of rounding: the lowest margin is above 0, but at most {thin:g}
logits on a float32 base, or {thin_half:g} on a bfloat16 base. At an exact tie decoding takes the
token with the lowest id, and the verdict is that the target is not recited.
"""

JUDGE = """
## The answer of `judge --json`

It has these fields of a report: {shared}.

Of an audit, those of a verdict and of bits are null. The other fields are:
"""

JUDGE_MEANINGS = {
    "base_loss": "L₀, mean loss without the adapter; null if there is none, because the model "
    "before its training is not known",
    "final_loss": "L, mean loss on what is judged",
    "memories": "memories that were judged; null of an audit",
    "adapter": "the adapter, as it was given",
    "base": "the base model that the adapter's own files name",
    "same_base": "whether that is this model: by the hash of its weights, or else by the names",
    "base_verbatim": "whether every margin is above 0 without the adapter, too; null without one",
    "adapter_change": "the largest change of a logit that the adapter makes; 0: it does nothing",
    "windows": "of an audit, the fields below",
    "capacity": "of an adapter, the fields below",
    "by_memory": "of each memory: its place in the file from 0, and the fields of its verdict",
    "expected": "`recited` or `not-recited`, as `--expect` has it",
    "as_expected": "whether the answer is that one",
}

WINDOW_MEANINGS = {
    "count": "windows that were judged",
    "recited": "windows that are recited whole",
    "longest": "the longest recited stretch, in tokens: windows that overlap or touch, merged. "
    "Each window has its own context; one decoding need not yield the whole stretch",
    "spans": "[start, end) of these stretches, in tokens of the document",
    "thin": "recited windows whose lowest margin rounding can reverse",
    "compared": "windows, spread over the document, on which losses and `adapter_change` are "
    "measured",
    "base_recited": "of the recited windows, those that are recited without the adapter too",
    "planned": "windows of the document; more than `count` after Ctrl-C",
    "context": "K",
    "window": "N",
    "stride": "tokens from one window to the next",
}

CAPACITY_MEANINGS = {
    "load": "tokens of the text per parameter of the adapter",
    "load_50": "the load of which half of the units of the study recite everything",
    "load_90": "the load of which 90 % of them do",
    "bits_per_parameter_50": "`load_50` in recited bits per parameter of random tokens",
    "rank_needed": "the smallest rank of such an adapter that recites a text of this length with "
    "probability 0.9, by the study; null if its LoRAs have different ranks",
    "study": "what the study measured: model, layer, site, method, ratio, steps",
}

CAPACITY = """
`capacity` compares the adapter with a recorded study, which is
[tiny-recall](reproduction/recall.md) for sft: another base model, random tokens, one site. It is a
guide and not a promise. An adapter that was trained on more than this text holds other things too.
"""

ROWS = """
## Rows of a sweep

`results.jsonl` holds one JSON object a line for each finished cell. A row has all fields of the
report, and three more:

| field | meaning |
|---|---|
| `setting` | everything else that decides a row: {setting} |
| `setting_hash` | the beginning of the SHA-256 of `setting`; rows of one file have the same |
| `checksum` | the beginning of the SHA-256 of all other fields, whatever their order |

A line that is torn, or whose checksum is not that of its fields, is named and skipped, and a sweep
trains its cell again. A row may lack the checksum; take it out of a row that you change on purpose.
Cells that diverge or run out of memory are rows with that `status`. `wall_seconds` of cells that
trained together is each one's share of the time.
"""

FIT = """
## The law: `fit --json`

The first law stands on top; `groups` has the laws of all groups of rows, each with these fields.
A group that only has a recall law has the `reason` in place of the fields of the power law.
"""

FIT_MEANINGS = {
    "model": "base model of the rows; null where they do not say",
    "layer": "layer of the units",
    "site": "site of the units",
    "method": "method of the rows",
    "n_cells": "cells (a rank and a length) to which these runs belong",
    "n_saturated": "saturated runs, which are left out",
    "r2_log": "R² of ln ΔL; null if a prediction is not positive",
    "ci": "95 % interval of each constant, from a bootstrap of whole cells",
    "n_unconverged": "unsaturated rows whose loss was still falling",
    "skipped": "why rows could not be used, and how many",
    "C": "factor of the law, nats per token",
    "alpha": "exponent α of the rank",
    "beta": "exponent β of the length",
    "b": "offset, nats per token; 0 with `--no-offset`",
    "offset": "whether b was fitted",
    "constant_bits": "the law with one constant, below; or `reason`, why there is none",
    "recall": "the recall law, below; or `reason`, why there is none",
    "recall_deviances": "if rows differ in entropy: the deviance of the recall law, with the load "
    "in `tokens` and in `bits` per parameter; the smaller one is the better load",
    "by_ratio": "if there are several ratios: for each, a law or the `reason` why there is none",
    "grid": "the `ranks`, `lengths`, `ratios` and `seeds` of the usable rows",
    "groups": "on top only: the laws of all groups of rows, the largest group first",
    "refused": "on top only: for each group without a law, the reason",
}

BITS = """
`constant_bits` is tinymem's own alternative with one constant: each of P parameters holds κ
bits, so that ΔL = min(L₀, L₀ − H + κ·P·ln 2/ℓ). It has the fields {names}. `kappa` is κ in bits
per parameter and `ci` its interval; the others mean the same as above.
"""

RECALL = """
`recall` is tinymem's own law of what is recited whole: P(recited) = 1 / (1 + (load / load_50)^s),
where the load is ℓ / P, in tokens per trainable parameter, and load_50 changes as P^(γ − 1).
`null` as the end of an interval means that there is no end.
"""

RECALL_MEANINGS = {
    "ci": "the 95 % intervals of `load_50`, `s` and `rank_exponent`, from the profile likelihood",
    "rank_exponent": "γ: the length that half of the runs recite grows as P^γ; 1 means that one "
    "number of tokens per parameter holds for all ranks. null if only one P was measured",
    "measured": "the different P of the rows",
    "width": "the load that 10 % of the runs recite, divided by the load that 90 % recite",
    "parameters_per_rank": "trainable parameters of a rank; null if the ranks differ in it",
    "length_50": "by rank, the length that half of the runs recite, tokens",
    "bits_per_parameter": "by rank, these in recited bits per parameter; null if H is not known",
}

PLAN = """
## The plan: `plan --json`

`null` as `rank` means that no rank is enough, and `null` as `length` that there is no limit.
"""

PLAN_MEANINGS = {
    "parameters": "trainable parameters of a unit of that rank",
    "constant_bits": "the answer of the law with one constant; null if the goal is the certificate",
    "certificate": "whether the goal is the certificate, which is every token with p > ½",
    "right_left_out": "share of the runs that a law fitted without their cell judges correctly",
    "probability": "that a fresh run of this rank and length reaches the goal",
    "by_rank": "this probability at the planned rank and its neighbours; empty if it was given",
    "base_loss": "L₀ of the memory, nats per token; null where a certificate is planned without it",
    "loss": "the final loss L* to reach, nats per token; null if the goal is the certificate",
    "asked": "what was asked for: `rank` or `length`",
    "rank": "the smallest rank with at least `--probability`, or the rank that was given",
    "length": "the largest length with at least `--probability`, or the length that was given",
    "interval": "the ranks that 95 % of fresh runs need, or the lengths that they hold",
    "bytes": "size of that unit in float32",
    "warnings": "sentences, such as that the answer lies outside the measured grid",
}

RECITAL = """
`plan --recite --json` prints these fields:
"""

RECITAL_MEANINGS = {
    "asked": "what was asked for: `rank` or `length`",
    "rank": "the smallest rank for the length, or the rank that was given; null: no rank is enough",
    "length": "the largest length for the rank, or the length that was given; null: no limit",
    "bytes": "size of that unit in float32",
    "kept": "of the measured runs to which curves of the other ranks promise as much: how many "
    "were recited, and how many there are",
    "warnings": "sentences, such as that the answer lies outside the measured grid",
}

PAGES = """
## The pages: `--html`

A page is one HTML file, to be opened from the disk. It holds its own style, scripts and data, and a
content security policy forbids it every request. Everything on it is also there for the keyboard
and for screen readers, in light and dark, and on a phone.

**A run** (`probe --html`) has its verdict and numbers, and its target token by token. The edge and
the ground of a token say whether it is wrong, the likeliest, or certified (p > ½). A token under
the pointer or in focus shows its id, p, margin, loss and the five likeliest tokens at its place. A
slider goes through the recorded steps, up to about 200 of a run, to the verdict. In these steps p
and margins are rounded, but what is above ½ or above 0 stays above it. Steps are recorded where
each of them sees all memories, and margins where they are watched. Of several memories, the worst
stands first, and one is open. An interrupted run has a page without a verdict.

**What is judged** (`judge --html`): memories as above, with the adapter and without it; or, of an
audit in windows, the whole document as a map, and the text around any place of it.
"""

SWEEP_PAGE = """
## The page of a sweep: `sweep --html` and `fit --html`

The page shows all rows of the folder or file:

- **Ranks and lengths**: a heat map for each method and ratio of random tokens. A cell has the mean
  of the chosen measure over its runs, signs for what is recited, certified or not converged, and
  words for runs that failed. `sweep --html` also marks the cells of its grid that have no row yet.
- **The power law** as `fit` prints it, with its points and, by cell, its residuals.
- **The recall law**: a curve for each rank, with the measured cells as points.
- **The planner**: for any rank, length and probability, the answers of `plan --recite` and of
  `plan`, computed in the page from the same draws, and the final loss that the power law predicts.

`sweep --html` writes the page when the sweep ends or is interrupted, also if every cell was there
already; of several workers, the first one writes it. If the rows give no law, the page says why;
`fit` refuses such rows and writes no page.
"""

PYTHON = """
## In Python

`import tinymem as tm` gives these names; `help(tm.memorize)` has the arguments of each.

{names}

**Units.** `with unit.attached(model):` puts a unit into a model for a block. Afterwards the model
is what it was, bit for bit, also after an error in the block. `tm.load_adapter(model,
folder).detach()` reads a unit without leaving it there. Units can take turns on one base: on one
CPU core it takes 0.6 ms to change from one unit to another at all 210 Linear sites of SmolLM2-135M.

**What is printed.** Every object prints as one line. In a notebook, results, verdicts, laws, fits
and plans are shown as tables and pictures. A result keeps the ids of its tokens and no tokenizer;
`result.show(tokenizer)` has their texts.

**Progress.** In a notebook, everything that takes longer than a moment shows bars with the time
that is left; they go when it ends. In scripts and terminals nothing is shown, unless the script
asks for it: `with tm.bars() as bars: tm.memorize(model, memory, progress=bars)`.
`progress=tm.SILENT` shows nothing in a notebook either; an object of a subclass of `tm.Progress`
receives the events instead.

**pandas.** `pandas.json_normalize(tm.read_rows("grid")[0])` is a data frame of a sweep's rows; a
part of the setting is a column such as `setting.dropout`.
"""

FILES = """
## Files

**A run** (`probe --out`) is a folder with `report.json` and, unless training failed, the unit. A
unit at the site `mlp` is `unit.safetensors`, with the float32 tensors `layers.K.mlp.lora_A` [d,
r] and `layers.K.mlp.lora_B` [r, d]. A unit at Linear sites is `adapter_model.safetensors` and
`adapter_config.json`, as peft saves them, and peft loads them.

The header of the safetensors file has a key `tinymem`: JSON with the name and two hashes of the
base model (of its bytes, and of its values, which are the same in a wider dtype), a hash of the
tensors, the memories as token ids, the recipe and the report. `tm.load_adapter(model, folder)`
reads both kinds, and LoRAs that peft saved, also in a subfolder with the adapter's name or under a
hub id. What changes the base model (pissa, olora, loftq, corda) or is no plain LoRA (DoRA, trained
biases, modules_to_save) is refused.

`tinymem recall` checks all of a header, because a unit may come from a stranger. It shows the base
model that the unit names before it opens it, and opens only `tiny`, a hub id or a checkpoint's
folder; `--model` names another place of the base.

While a run trains, its folder holds `state.safetensors`: unit, optimizer and losses so far,
replaced every ten seconds and when the run is interrupted. The same command again goes on from
there, and on a CPU ends with the same bits as a run without the interruption; on a finished folder
it prints the report. Another command is refused, with the difference. `report.json` holds the
report and, under `command`, what decided the run. An interrupted run has no verdict.

**A sweep** (`sweep --out`) is a folder with `results.jsonl`. A line that was cut off by a kill
is skipped when the file is read, and named on stderr.

**Memories** (`--data`, `--held-out`) are JSON Lines in UTF-8, one object a line, with one of
these pairs:

| prompt | target | |
|---|---|---|
{pairs}

or with a chat of one turn: `messages` with one message of the role `user` and one of `assistant`,
or a list with the first as `prompt` and one with the second as `completion`. A system message,
further turns and tools are refused.

Files with token ids may also have `ratio` (percentage of random tokens) and `entropy` (H in nats
per token), which the report then uses. Other fields are ignored. A file has at most 40 MB, a line,
a `--text` and what comes from stdin 4 MB. `tinymem data` writes such files.
"""

MODELS = """
## Base models

| `model_type` in config.json | models |
|---|---|
{families}

Weights are read from one or several safetensors files of any size, with tied or separate head.
Logits are those of `transformers` to within 1e-4, which is tested for each family. Where layers
have a sliding window, as in Mistral 0.1, the context ends with the window, within which attention
is full. What tinymem cannot compute exactly (other rope types, quantised weights) and what it does
not open (pickles, links out of the folder) is refused by name.

The tokenizer is read from `tokenizer.json`, or from the `vocab.json` and `merges.txt` of a GPT-2 or
Qwen2, with the tokens that `tokenizer_config.json`, `special_tokens_map.json` and
`added_tokens.json` add. It is first tried in a process of its own, with 20 s and 2 GB: one that
fails, or makes texts grow without end, is refused. A token that has no row in the embedding, such
as a padding token that was added later, is never drawn, and a text that contains it is refused.

A chat template is a program. It is rendered in jinja2's sandbox, in a process of its own with 5 s
and 512 MB (macOS and Windows limit only its time); start and end of that process take about 0.06 s,
once for all prompts of a file. It may add a million characters to a prompt. `strftime_now` formats
1 January 2026, so that the key of a memory stays the same. `--no-chat` does without the template.
"""

FAMILY_MODELS = {
    "gpt2": "GPT-2, and `tiny`, which is shipped with tinymem",
    "gpt_neox": "GPT-NeoX, Pythia",
    "llama": "Llama 2, 3, 3.1 and 3.2 with their rope scaling, SmolLM2, TinyLlama",
    "mistral": "Mistral, Ministral 8B, Zephyr, Danube",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
}

ENVIRONMENT = {
    "HF_HOME": "folder of the hub's cache",
    "HF_ENDPOINT": "address of a mirror of the hub",
    "HF_TOKEN": "access token, for repositories that need one",
    "HF_HUB_OFFLINE": "1: use only what is in the cache",
    "HF_HUB_ETAG_TIMEOUT": "seconds to wait for the hub's first answer",
    "WORLD_SIZE": "number of workers of a sweep; set by torchrun, as are `RANK`, `MASTER_ADDR` "
    "and `MASTER_PORT`",
    "LOCAL_RANK": "number of the worker on its machine, and of its GPU; set by torchrun",
    "TINYMEM_FAST": "1: the lessons of the course train for fewer steps",
}

EXIT_CODES = {
    "0": "done",
    "1": "the run itself failed: it diverged, ran out of memory or could not be saved; of a sweep, "
    "every cell failed; a recalled unit is not as reported; `judge --expect` has the other answer; "
    "merged weights do not recite what the unit did; the results could not be printed",
    "2": "wrong usage or bad input; one line on stderr says what is wrong and what to do",
    "130": "interrupted (Ctrl-C, SIGTERM or SIGHUP); everything that was finished is on the disk, "
    "unless a second signal followed",
}

SECURITY = """
## Security

A checkpoint, a unit and a file of rows or memories may come from a stranger.

**Executed from a download**: the chat template, a jinja2 program, in jinja2's sandbox, in a process
of its own with a limit on time (and on Linux on memory). `--no-chat` does without it. The rules of
a tokenizer are tried in such a process too, before tinymem uses them in its own.

**Never executed**: pickles (`.bin`, `.pt`, `.pth`) are not opened, and code that a repository
brings along is not downloaded. There is no option that changes this. Only `*.json`, `*.txt`,
`*.jinja` and `*.safetensors` are requested from the hub, by their names, and large files are
compared with the sha256 that it states.

**Never followed**: links of a checkpoint that lead out of its folder (those of the hub's cache lead
to its own blobs), devices and pipes, file names with folders in an index. `recall` opens the base
model that a unit names only if it is `tiny`, a hub id or the folder of a checkpoint.

**Never shown**: the access token in `HF_TOKEN`, and control characters of files, which a terminal
would obey.

tinymem does not isolate itself: torch, tokenizers and safetensors read the files in this process.
"""

PROMISES_TEXT = """
## Promises

Each is held by the test beside it, and by others. After the tests, `python -m tests.mutations`
damages 5,000 files of every kind: each must be read, or refused in a line, within ten seconds.
"""

PROMISES = {
    "Logits are those of transformers to within 1e-4": "base/test_model.py::"
    "test_equals_transformers",
    "What a model says is what transformers generates": "base/test_generate.py::"
    "test_equals_transformers_and_ends_where_it_does",
    "Every margin above 0 in one pass means that decoding recites the target, and the other way "
    "round": "experiment/test_recall.py::"
    "test_margins_above_zero_mean_exact_recall_and_nothing_else_does",
    "The same seed gives the same report, bit for bit, on a CPU": "experiment/test_probe.py::"
    "test_the_same_seed_gives_the_same_report_bit_for_bit",
    "A run leaves the base model as it was, however it ends": "experiment/test_probe.py::"
    "test_interrupted_at_any_moment_no_unit_is_left",
    "The base is untouched before, between and after units": "unit/test_attached.py::"
    "test_the_base_is_untouched_before_between_and_after",
    "A sweep that is killed loses at most the cells in flight": "experiment/test_kills.py::"
    "test_killed_at_any_moment",
    "A probe that is killed goes on to the same bits": "experiment/test_resume.py::"
    "test_killed_twice",
    "A kill at any write leaves the old file or the new one": "experiment/test_resume.py::"
    "test_killed_at_every_write",
    "A changed byte of a row is noticed, and its cell is trained again": "experiment/test_rows.py::"
    "test_no_changed_byte_goes_unnoticed",
    "A full disk does not hide the result": "test_faults_of_runs.py::test_fault_20_a_full_disk",
    "Two processes never write to one folder": "test_faults_of_runs.py::"
    "test_fault_21_two_writers_of_one_folder",
    "Another command for a folder is refused, with the difference": "test_faults_of_runs.py::"
    "test_fault_23_another_command_for_the_same_folder",
    "`data` never replaces a file": "cli/test_output.py::test_existing_data_is_never_overwritten",
    "Merged weights are complete, or are not there": "tools/test_merge.py::"
    "test_an_end_at_any_step_leaves_nothing",
    "Bad input is one line and exit code 2, and nothing is written": "cli/test_probe.py::"
    "test_bad_input_is_one_line_and_exit_code_2",
    "A pickle is never opened": "test_faults.py::test_fault_06_pickles",
    "A chat template has limits": "base/test_template.py::"
    "test_templates_that_would_fill_the_memory",
    "A link out of a checkpoint's folder is not followed": "base/test_folder.py::"
    "test_links_out_of_the_folder",
    "A download of the right size and wrong content is refused": "base/test_hub.py::"
    "test_wrong_bytes_of_the_right_size",
    "The access token is never shown": "test_faults_of_runs.py::"
    "test_fault_25_downloads_that_are_forbidden",
    "A unit of another base is refused": "unit/test_adapter.py::test_another_base_is_refused",
    "Output never fails for a character that the terminal lacks": "cli/test_streams.py::"
    "test_no_command_fails_for_a_character",
    "A stream that is closed, full or gone costs no result": "cli/test_streams.py::"
    "test_what_was_computed_is_saved_whatever_becomes_of_the_streams",
    "No text that is printed commands the terminal": "show/test_terminal.py::"
    "test_every_text_of_a_report_and_every_token",
    "A place for results that cannot be written is found before any work": "cli/test_output.py::"
    "test_a_place_that_cannot_be_written",
    "Commands work without what Windows lacks": "test_system.py::test_commands_as_on_windows",
    "`--help` does not wait for torch": "cli/test_app.py::test_help_does_not_wait_for_torch",
    "No command loads torch's compiler": "cli/test_start.py::"
    "test_no_command_loads_the_compiler_of_torch",
}

# --- Tables from the code ------------------------------------------------------------------------


def body(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return body([head, ["---"] * len(head), *rows])


def table_of(meanings: Mapping[str, str], what: str = "field") -> str:
    return table((what, "meaning"), [(code(name), text) for name, text in meanings.items()])


def code(text: object) -> str:
    return f"`{text}`"


def kind(annotation: object) -> str:
    """A Python type in plain words."""
    if isinstance(annotation, types.UnionType):
        return " or ".join(map(kind, typing.get_args(annotation)))
    return TYPES[typing.get_origin(annotation) or annotation]


def comments(cls: type) -> dict[str, str]:
    """Field name -> the comment beside it, of a dataclass and of those it extends."""
    source = "".join(inspect.getsource(base) for base in reversed(cls.__mro__[:-1]))
    fields = re.findall(r"^    (\w+): [^#\n]*?(?:  # (.*))?$", source, re.MULTILINE)
    return {name: text for name, text in fields if name in cls.__dataclass_fields__}


def default_of(parameter: inspect.Parameter, info: object) -> str:
    default = parameter.default
    if default is inspect.Parameter.empty:
        return "required"
    if isinstance(info.show_default, str):
        return info.show_default
    if default is True:
        return "on"
    if default is None or default is False or default == "":
        return ""
    return code(default)


def option_row(parameter: inspect.Parameter, names: Sequence[str]) -> tuple[str, str, str]:
    annotation, info = typing.get_args(parameter.annotation)
    is_choice = typing.get_origin(annotation) is typing.Literal
    choices = typing.get_args(annotation) if is_choice else ()
    text = info.help + (f" One of {', '.join(map(code, choices))}." if choices else "")
    return ", ".join(map(code, names)), default_of(parameter, info), text


def options_of(command, callback, chosen: Iterable[str]) -> str:
    """The table of the chosen parameters of a command."""
    signature, rows = inspect.signature(callback).parameters, []
    for parameter in sorted(command.params, key=lambda p: p.param_type_name != "argument"):
        if parameter.name in chosen:
            names = [*parameter.opts, *parameter.secondary_opts]
            if parameter.param_type_name == "argument":
                names = [parameter.name.upper()]
            rows.append(option_row(signature[parameter.name], names))
    return table(("option", "default", "meaning"), rows)


def commands() -> Iterable[tuple[str, object, typing.Callable]]:
    """Name, typer's command and function of every command."""
    root = get_command(cli.app)
    for info in cli.app.registered_commands:
        yield info.callback.__name__, root.commands[info.callback.__name__], info.callback
    for info in cli.data.registered_commands:
        name = info.callback.__name__.replace("_", "-")
        yield f"data {name}", root.commands["data"].commands[name], info.callback


def command_sections() -> Iterable[str]:
    shared = {field.name for group in GROUPS.values() for field in dataclasses.fields(group)}
    for name, command, callback in commands():
        names = {parameter.name for parameter in command.params}
        summary = inspect.cleandoc(callback.__doc__).split("\n\n")[0]
        yield f"### tinymem {name}\n\n{summary}\n\n    {command.epilog.removeprefix('Example: ')}"
        yield options_of(command, callback, names - shared if shared <= names else names)
        if shared <= names:
            yield "It also takes the [shared options](#shared-options) below."
        yield NOTES.get(name, "")
        if name == "sweep":
            yield "### Shared options"
            for heading, group in GROUPS.items():
                own = {field.name for field in dataclasses.fields(group)}
                yield f"**{heading}**\n\n{options_of(command, callback, own)}"
                yield NOTES[heading]


def report_table() -> str:
    rows = [
        (code(field.name), kind(field.type), field.metadata["unit"], field.metadata["meaning"])
        for field in dataclasses.fields(Report)
    ]
    return table(("field", "type", "unit", "meaning"), rows)


def judge_fields() -> list[str]:
    """The fields of a real answer."""
    model, tokenizer = load("tiny", device="cpu")
    judged = judge_memories(model, None, [random_memory(tokenizer, 2)], SILENT)
    return [*judge_report(model, None, judged, {}, 0)]


def judge_section() -> str:
    shared = [name for name in judge_fields() if name not in JUDGE_MEANINGS]
    parts = [JUDGE.format(shared=", ".join(map(code, shared))), table_of(JUDGE_MEANINGS)]
    parts += ["`windows` has the fields", table_of(WINDOW_MEANINGS)]
    return "\n\n".join([*parts, CAPACITY, table_of(CAPACITY_MEANINGS)])


def setting() -> str:
    recipe = [field.name for field in dataclasses.fields(Recipe) if field.name not in AXES]
    names = ["base", "dtype", *recipe, *describe(opt.SourceOptions(), None)]
    return ", ".join(map(code, names)) + " (`base` is the hash of the weights)"


def fit_table() -> str:
    """The fields of a law that is fitted to planted rows, so that none is left out."""
    cells = [(rank, length) for rank in (1, 2, 4) for length in (16, 64, 256)]
    rows = [{"rank": r, "length": n, "delta_loss": 8 * (r / n) ** 0.5 + 1} for r, n in cells]
    (fit,), _ = fit_rows(rows, draws=10)
    known = {**comments(Fit), **comments(Law), **FIT_MEANINGS}
    names = [*fit.as_dict(), "groups", "refused"]
    return table_of({name: known[name] for name in names})


def recall_table() -> str:
    rows = [{"rank": 1, "length": n, "trainable_parameters": 512} for n in (8, 16, 32, 64)]
    law = recall_of([row | {"recall_exact": row["length"] < 20} for row in rows])
    known = comments(RecallLaw) | RECALL_MEANINGS
    return table_of({name: known[name] for name in law.as_dict()})


def plan_table() -> str:
    known = comments(Plan) | PLAN_MEANINGS
    return table_of({name: known[name] for name in comments(Plan)})


def names_table() -> str:
    """The public names, with the first paragraph that each says of itself."""
    rows = []
    for name in tm._HOME:
        thing = getattr(tm, name)
        said = "A `Progress` that shows nothing." if thing is tm.SILENT else inspect.getdoc(thing)
        rows.append((code(f"tm.{name}"), " ".join(said.split("\n\n")[0].split())))
    return table(("name", "what it is"), rows)


def promises_table() -> str:
    rows = [(promise, code(f"tests/{test}")) for promise, test in PROMISES.items()]
    return table(("promise", "test"), rows)


def page() -> str:
    """The whole page."""
    pairs = [(*map(code, pair), "text") for pair in TEXT_PAIRS]
    pairs.append((*map(code, ID_PAIR), "lists of token ids of the base model"))
    families = [(code(name), FAMILY_MODELS[name]) for name in FAMILIES]
    report = REPORT.format(thin=THIN, thin_half=THIN_IN_BFLOAT16)
    sections = [
        *(OPENING, COMMANDS, *command_sections(), report, report_table()),
        judge_section(),
        *(ROWS.format(setting=setting()), FIT, fit_table()),
        BITS.format(names=", ".join(map(code, comments(BitsLaw)))),
        *(RECALL, recall_table()),
        *(PLAN, plan_table()),
        *(RECITAL, table_of({**comments(RecitePlan), **RECITAL_MEANINGS})),
        *(PAGES, SWEEP_PAGE),
        PYTHON.format(names=names_table()),
        FILES.format(pairs=body(pairs)),
        MODELS.format(families=body(families)),
        *("## Environment variables", table_of(ENVIRONMENT, "variable")),
        *("## Exit codes", table_of(EXIT_CODES, "code")),
        *(SECURITY, PROMISES_TEXT, promises_table()),
    ]
    return "\n\n".join(part.strip("\n") for part in sections if part) + "\n"


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
