"""Runs the command line in the process of the test."""

import shutil
import signal
import sys

import pytest

from tinymem.base.checkpoint import SHIPPED
from tinymem.cli.app import main
from tinymem.system import STOP_SIGNALS


@pytest.fixture
def tinymem(monkeypatch, capsys):
    """A function from a command's arguments to (exit code, stdout, stderr)."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["tinymem", *map(str, args)])
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        with pytest.raises(SystemExit) as caught:
            main()
        for number, handler in before.items():
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


@pytest.fixture
def chatty(tmp_path):
    """The folder of a base model that is `tiny` with a chat template."""
    folder = tmp_path / "chatty"
    folder.mkdir()
    for file in SHIPPED["tiny"].iterdir():
        shutil.copy(file, folder)
    (folder / "chat_template.jinja").write_text("Question: {{ messages[0].content }} Answer:")
    return folder
