"""Tools for models and adapters that were trained elsewhere. Only the command line imports them.

`judge` asks whether a model, or an adapter on its base, recites memories, and what the adapter
changes. `windows` audits a document that may be longer than the context: which stretches of it can
be extracted? Both give the verdict of experiment/recall.py. `likeliest` finds what a model would
rather say at each place of a target. `capacity` compares the load of an adapter with what units of
a recorded study recite. `merge` adds an adapter to the weights of its base, and writes them as a
folder that transformers loads. `bfloat16` measures whether a CPU is faster in that precision.
"""
