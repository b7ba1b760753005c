"""Writes a page: one HTML file that holds its own style, scripts and data, and loads nothing.

The template, the style sheet and the scripts are in the folder `page` beside this file. A page is
opened from the disk, without a server; its content security policy forbids every request.
"""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import json_text, printable, write_text_atomically

PARTS = Path(__file__).with_name("page")
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # what could end or open an element


def write_page(path: Path, title: str, scripts: Sequence[str], data: Mapping[str, Any]) -> None:
    """Writes the page to `path`, atomically.

    title: heading of the page, plain text. scripts: names of files of the folder `page`, which run
    in this order and find the data in `data`. data: what JSON can hold; NaN becomes null.
    Raises OSError.
    """
    content = {name: (PARTS / name).read_text(encoding="utf-8") for name in ("page.css", *scripts)}
    filled = {
        "title": html.escape(printable(title)),
        "style": content["page.css"],
        "scripts": "\n".join(f"<script>\n{content[name]}</script>" for name in scripts),
        "data": escape_json(json_text(data)),
    }
    template = (PARTS / "page.html").read_text(encoding="utf-8")
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)
    write_text_atomically(path, text)


def escape_json(text: str) -> str:
    """JSON text of ASCII that can stand in a script element: no text in it can end the element."""
    return re.sub("[<>&]", lambda found: UNSAFE[found[0]], text)
