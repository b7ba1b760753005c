"""The memory unit: a LoRA beside a part of the frozen base model.

`lora` has the LoRA itself and `Unit`, which is attached to a model, detached, or merged into it;
`beside` puts the LoRAs beside their parts of the model, and takes them out. `sites` finds the parts
of a model where a unit may sit. `stack` holds several units as one, so that they train as one
batch. `adapter` saves and loads units, in peft's layout where there is one; `peft` reads and writes
the adapter_config.json of that layout.
"""
