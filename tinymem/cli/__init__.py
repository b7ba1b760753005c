"""The command line. It may import every other package, and none imports it.

Begin with app.py, which lists the commands. Each of probe.py (probe and recall), sweep.py, laws.py
(fit and plan) and data.py holds whole commands. They share options.py, the options, and source.py,
which turns options into memories.
"""
