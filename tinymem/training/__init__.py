"""How a memory is written into a unit.

`recipe` says what decides a run, `memft` weights the tokens, `margin` is tinymem's own objective,
and `loss` computes the loss of every token. `trainer` is one step: losses, weights, weighted mean,
gradient, update. `train` is the loop. What surrounds them: `record` keeps what the loop measured,
`prefix` computes the layers below the unit only once, `adamw` and `lbfgs` are the optimizers,
`rounds` is the loop of the latter, `state` is what a killed run needs to go on, and `graph` replays
a step on a GPU.
"""
