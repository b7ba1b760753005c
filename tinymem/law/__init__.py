"""The Parametric Memory Law: how much of a memory a LoRA of a given rank can hold.

Read `power` first: it has the law's equation, and `fit_law`, which fits it to measured runs.
`offset` holds the search over b and the least squares inside it, and `cells` checks the input.
`bits` is a law with one constant, to compare with. `recall` is another law, with its fit in
`logistic`: how likely a memory is recited whole, as a function of the load. `fit` turns the rows of
a sweep into laws. `certificate` says from which rank on a memory is certified. `plan` inverts the
first law and the certificate's, `recite` the recall law: they give the rank that a length needs, or
the length that a rank holds, for a fresh run with a given probability.
"""
