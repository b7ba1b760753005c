"""The frozen base model: a transformer, and its weights and tokenizer as they are found on disk.

Read model.py first, with config.py (what distinguishes one model from another) and rope.py (how
positions enter). Then read families.py and fields.py, which turn a config.json into a
`ModelConfig`, and checkpoint.py, which loads a model with the help of weights.py, hub.py and
folder.py. tokenizer.py encodes text; vocabulary.py reads what it needs, and template.py renders the
chat format. What a download could make endless runs in limited.py; whatever takes long reports to a
`Progress` (progress.py). generate.py has what a model says, as text. arithmetic.py keeps settings
of the program, such as autocast, away from a run.
"""
