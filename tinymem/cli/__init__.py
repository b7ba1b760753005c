"""The command line. It may import every other package, and none imports it.

Begin with app.py, which lists the commands, and options.py, which holds the options of each command
as a dataclass. probe.py (probe and recall), judge.py, merge.py, sweep.py, laws.py (fit and plan)
and data.py do the work. They share source.py, which turns options into base model, recipe and
memories, and output.py.
"""
