"""The cells of an executed notebook as HTML; their pictures become files."""

import base64
import re
from html import escape
from pathlib import Path

from nbformat import NotebookNode

from .text import Text, code

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def cells_html(notebook: NotebookNode, text: Text, stem: str, out: Path, alt: str) -> str:
    """All cells of a lesson. alt: what its picture shows, for those who cannot see it."""
    parts, pictures = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(text.html(cell.source))
            continue
        if cell.source.strip():
            parts.append(code(cell.source, "python"))
        for output in cell.outputs:
            picture = output.get("data", {}).get("image/png")
            if picture:
                pictures += 1
                place = f"pictures/{stem}-{pictures}.png"
                (out / place).parent.mkdir(parents=True, exist_ok=True)
                (out / place).write_bytes(base64.b64decode(picture))
                image = f'<img src="{place}" alt="{escape(alt)}">'
                parts.append(f'<p><a href="{place}">{image}</a></p>\n')
            else:
                parts.append(output_html(output))
    return "".join(parts)


def output_html(output: NotebookNode) -> str:
    """What a cell printed or returned; nothing for progress, which goes to stderr."""
    data = output.get("data", {})
    shown = data.get("text/html", "")
    if shown.strip():
        return f'<div class="output shown">{shown}</div>\n'
    said = output.get("text", "") if output.get("name") != "stderr" else ""
    said = ANSI.sub("", said or data.get("text/plain", ""))
    if not said.strip() or "text/html" in data:
        return ""
    said = f"<samp>{escape(said.rstrip())}</samp>"
    return f'<pre class="output" role="group" aria-label="Output" tabindex="0">{said}</pre>\n'
