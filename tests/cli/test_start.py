"""A command begins its work at once: it loads no part of torch's compiler, which takes seconds.

Oracle: sys.modules of a process that runs the commands, compared with one that only imports torch.
"""

import json
import subprocess
import sys

COMPILER = ("torch._dynamo", "torch._inductor", "sympy")
PAGES = ("tinymem.show.page", "tinymem.tools.likeliest")  # of no use without --html
SCRIPT = """
import json, sys
import torch.utils.checkpoint
brought = {name for name in COMPILER if name in sys.modules}  # by torch itself, in some versions
from tinymem.cli.app import main
for args in COMMANDS:
    sys.argv = ["tinymem", *args]
    try:
        main()
    except SystemExit as end:
        assert not end.code, args
    loaded = [name for name in COMPILER if name in sys.modules and name not in brought]
    assert not loaded, (args, loaded)
    assert not any(name in sys.modules for name in PAGES), args
"""
STEPS = ["--steps", "3", "--length", "8", "--rank", "2"]
LINEAR = ["--site", "c_attn", "--layer", "all"]


def test_no_command_loads_the_compiler_of_torch(tmp_path):
    rows = [
        {"rank": r, "length": n, "base_loss": 12.0, "delta_loss": 8 * (r / n) ** 0.5 + 1}
        for r in (1, 2, 4)
        for n in (16, 64, 256)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "text.txt").write_text("Mary had a little lamb, its fleece was white as snow.")
    out, wide, text = (str(tmp_path / name) for name in ("run", "wide", "text.txt"))
    commands = [
        ["probe", *STEPS, "--out", out],
        ["probe", *STEPS, "--method", "margin", "--optimizer", "lbfgs"],
        ["probe", *STEPS, *LINEAR, "--dtype", "bfloat16", "--out", wide],
        ["merge", wide, "--out", str(tmp_path / "merged")],
        ["probe", *STEPS, "--text", text, "--optimizer", "lbfgs", "--out", str(tmp_path / "other")],
        ["sweep", "--ranks", "1,2", "--lengths", "4", "--steps", "3", "--out", str(tmp_path / "s")],
        ["recall", out],
        ["judge", "--adapter", out, "--text", text],
        ["judge", "--model", "tiny", "--text", text, "--context", "4", "--window", "4"],
        ["plan", str(tmp_path / "rows.jsonl"), "--text", text, "--model", "tiny"],
    ]
    script = f"COMPILER = {COMPILER!r}\nPAGES = {PAGES!r}\nCOMMANDS = {commands!r}\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
