"""The experiment: is the memory in the unit, and how many bits of it?

`recall` is the verdict: one parallel pass as a proof, and greedy decoding; `readout` finds the
temperature that shows most of a memory that is not recited. `probe` writes a memory into a fresh
unit and judges it. `report` has the fields of a report; runs are `saved` with it, and `resume`
goes on with one that was killed. `grid` and `sweep` run many experiments, whose results are `rows`
in a file; `workers` share a sweep.
"""
