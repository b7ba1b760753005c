"""What is to be remembered.

`memory` holds a (prompt, target) pair of token ids and makes random and text memories; `read` reads
memories from JSON lines. `batch` puts memories side by side in one padded tensor, with the place of
every target token. `benchmarks` writes the benchmark files: random, long-context, phonebook, rule.
"""
