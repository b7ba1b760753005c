"""A notebook, run by a real kernel, and its outputs as they would be saved."""

import json
import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbclient and ipykernel")
nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient and ipykernel")
pytest.importorskip("ipykernel", reason="notebooks need nbclient and ipykernel")

ROOT = Path(__file__).parents[2]
CELLS = """
import tinymem as tm
model, tokenizer = tm.load("tiny", device="cpu")
memory = tm.text_memory(tokenizer, "Call me Ishmael. Some years ago, never mind how long")
memory
# ---
result = tm.memorize(model, memory, rank=8, steps=250)
result
# ---
tm.memorize(model, memory, rank=1, steps=150, progress=tm.SILENT).verdict.show(tokenizer)
# ---
with result.unit.attached(model):
    print(tm.generate(model, memory.prompt_ids, memory.length))
result.unit
# ---
rows = [{"rank": r, "length": n, "delta_loss": 8 * (r / n) ** 0.5 + 1}
        for r in (1, 2, 4) for n in (16, 32, 64)]
(fit,), _ = tm.fit_rows(rows)
fit
# ---
1 / 0
"""


class Client(nbclient.NotebookClient):
    """Runs a notebook, and keeps what its cells show on the way, as a browser would see it."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] in ("display_data", "update_display_data"):
            shown.append((cell_index, msg["content"]["data"]["text/plain"]))
        return super().process_message(msg, cell, cell_index)


shown: list[tuple[int, str]] = []


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> list:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(text.strip()) for text in CELLS.split("# ---\n")]
    here = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    client = Client(notebook, timeout=60, resources=here, allow_errors=True)
    client.execute(env=os.environ | settings)
    assert len(json.dumps(notebook)) < 500_000
    return notebook.cells


def outputs(cell) -> list[tuple[str, str]]:
    """(HTML or "", text) of each output."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {"text/plain": output.get("text", output.get("evalue", ""))})
        found.append((data.get("text/html", ""), data["text/plain"]))
    return found


def test_objects_show_themselves(cells):
    load, memorize, verdict, attached, fit, _ = map(outputs, cells)
    (known,) = re.findall(
        r"Memory\(\d+ prompt tokens, (\d+) target tokens, 0 % random\)", load[0][1]
    )
    html, text = memorize[-1]
    assert re.fullmatch(r"Result\(rank 8, \d+ tokens, sft: recited, loss 0\.\d+ nats, .*\)", text)
    assert html.count('title="') == int(known) and "Recited" in html
    html, text = verdict[-1]
    assert "‹" in text and re.search('class="w" title="[^"]+">‹[^<]+›</span>', html)
    assert attached[0][1] == "Call me Ishmael. Some years ago, never mind how long\n"
    assert attached[1] == ("", "Unit(rank 8, layers.2.mlp, 4,096 parameters)")
    html, text = fit[-1]
    assert text.startswith("Fit(ΔL = 8·r^0.50·ℓ^−0.50 + 1") and "data:image/png;base64" in html


def test_a_bar_is_there_while_it_trains_and_one_empty_output_afterwards(cells):
    bars = [text for index, text in shown if index == 1 and "training" in text]
    assert any(re.match(r"training +\d+ %, \d:\d\d:\d\d left\n.*loss \d", text) for text in bars)
    assert len(outputs(cells[1])) == 2 and outputs(cells[1])[0] == ("", "")
    assert not [text for index, text in shown if index in (0, 2)]  # short, or silent


def test_nothing_but_results_and_an_error_as_python_has_it(cells):
    kinds = [[output["output_type"] for output in cell.outputs] for cell in cells]
    assert kinds[1:3] == [["display_data", "execute_result"], ["execute_result"]]
    assert kinds[3:] == [["stream", "execute_result"], ["execute_result"], ["error"]]
    assert cells[3].outputs[0]["name"] == "stdout" and outputs(cells[5])[0][1] == "division by zero"
