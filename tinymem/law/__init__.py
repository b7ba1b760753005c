"""The Parametric Memory Law: how much of a memory a LoRA of a given rank can hold.

Read `power` first: it has the law's equation, and `fit_law`, which fits it to measured runs.
`offset` holds the search over b and the least squares inside it, and `cells` checks the input.
`bits` is a law with one constant, to compare with. `recall` is another law, with its fit in
`logistic`: how likely a memory is recited whole, as a function of the load. `fit` turns the rows of
a sweep into laws. `threshold` says from which rank on runs reach a loss or a certificate. `plan`
rests on it, and `recite` on the recall law: they give the rank that a length needs, or the length
that a rank holds, for a fresh run with a given probability. `answer` holds what both share.
"""
