"""The process of a hand-in: what it may do, what stops it, and what the grader says then."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checks import source
from checks.hand_in import Computer, HandIn
from checks.values import MODEL, TOKENIZER, Raised

from tests.course.conftest import TUTORIALS

LINUX = sys.platform == "linux"
KEY = TUTORIALS.parent / "tests" / "answer_key.py"


@pytest.fixture(scope="module")
def computer():
    made = Computer(limit=60, memory=300)
    made.share = False
    yield made
    made.stop()


@pytest.fixture
def hand_in(tmp_path, computer):
    """A function that loads a text as exercises.py; the reason if it cannot be loaded."""

    def load(text: str, name: str = "exercises.py", limit: float = 60) -> HandIn:
        (tmp_path / name).write_text(text, encoding="utf-8")
        computer.limit = limit
        made = HandIn("exercises", tmp_path, computer)
        made.reason = made.load()
        return made

    return load


def ask(hand_in, body: str, *args, limit: float = 60) -> object:
    """What `def f(*args)` with this body returns, or its failure in one sentence."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    made = hand_in(f"import os, sys, torch\ndef f(*args):\n{lines}", limit=limit)
    assert made.reason is None
    try:
        return made.call("f", *args)
    except pytest.fail.Exception as failed:
        return f"failed: {failed}"


# --- Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, -0.5, float("inf"), "ü", [1, (2, [])], {"a": 1.5, 3: None}),
        *(torch.arange(6.0).view(2, 3), torch.tensor(4), torch.zeros(0, 2), torch.tensor([1j])),
        *(torch.tensor([0.1, -3]).bfloat16(), torch.ones(2, 2, dtype=torch.bool).T),
    ],
    ids=str,
)
def test_values_pass_both_ways(hand_in, value):
    back = ask(hand_in, "return args[0]", value)
    if isinstance(value, torch.Tensor):
        assert back.dtype == value.dtype and torch.equal(back, value)
    else:
        assert back == value and type(back) is type(value)


def test_arrays_generators_and_functions_pass(hand_in):
    array = torch.arange(6).reshape(2, 3).numpy()
    assert (ask(hand_in, "return args[0] + 1", array) == array + 1).all()
    drawn = torch.rand(2, generator=torch.Generator().manual_seed(5))
    body = "return torch.rand(2, generator=args[0])"
    assert torch.equal(ask(hand_in, body, torch.Generator().manual_seed(5)), drawn)
    calls = []
    body = "return [args[0](n) for n in (1, 2)]"
    assert ask(hand_in, body, lambda n: calls.append(n) or n * 10) == [10, 20] and calls == [1, 2]


def test_an_exception_of_a_called_function_arrives_and_can_be_caught(hand_in):
    def stop():
        raise KeyboardInterrupt

    body = "try:\n    args[0]()\nexcept KeyboardInterrupt:\n    return 'caught'"
    assert ask(hand_in, body, stop) == "caught"
    assert "f raised KeyboardInterrupt" in ask(hand_in, "args[0]()", stop)


def test_the_shipped_model_arrives_as_a_fresh_copy(hand_in):
    body = "model = args[0]\nbefore = model.lm_head.weight.sum().item()\n"
    body += "model.lm_head.weight.data.zero_()\nreturn before, args[1].encode('a')"
    assert ask(hand_in, body, MODEL, TOKENIZER) == ask(hand_in, body, MODEL, TOKENIZER)


def test_ids_without_a_batch_dimension_are_named(hand_in):
    says = "the model got ids of shape [2]; it reads [1, T]: torch.tensor([ids])"
    assert says in ask(hand_in, "return args[0](torch.tensor([5, 6]))", MODEL)
    assert ask(hand_in, "return args[0](torch.tensor([[5, 6]]))", MODEL).shape[:2] == (1, 2)


def test_a_warning_is_shown_once(hand_in, capsys):
    body = "import warnings\nfor kind in 'aab':\n    warnings.simplefilter('default')\n"
    ask(hand_in, f"{body}    warnings.warn(f'kind {{kind}}')")
    shown = capsys.readouterr().out
    assert "exercises.py, line 6: UserWarning: kind a\n" in shown
    assert shown.count("kind a") == shown.count("kind b") == 1


def test_what_cannot_pass_says_what_it_was(hand_in):
    assert ask(hand_in, "return object()").kind == "object"
    assert ask(hand_in, "return f").kind == "function"
    body = "class Odd:\n    def __str__(self): raise ValueError('no text')\nreturn Odd()"
    assert "f raised ValueError: no text" in ask(hand_in, body)
    body = "deep = []\nfor _ in range(100_000): deep = [deep]\nreturn deep"
    assert "RecursionError" in ask(hand_in, body)


# --- Limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "import socket\nsocket.create_connection(('127.0.0.1', {port}))",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}')",
        "import socket\nsocket.getaddrinfo('example.org', 80)",
    ],
)
def test_no_network(hand_in, body):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        said = ask(hand_in, body.format(port=server.getsockname()[1]))
        assert "hand-ins run without a network" in said
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "body",
    [
        "import subprocess\nsubprocess.run(['echo'])",
        "os.system('echo')",
        *(["os.fork()", "os.kill(os.getppid(), 9)"] if hasattr(os, "fork") else []),
    ],
)
def test_no_other_programs(hand_in, body):
    assert "a hand-in may not start or stop other programs" in ask(hand_in, body)


def test_no_way_around_by_c_or_by_the_modules_of_the_checks(hand_in):
    said = ask(hand_in, "import ctypes\nctypes.CDLL(None).getpid()")
    assert "a hand-in may not call functions of C" in said
    assert "may not search the memory" in ask(hand_in, "import gc\ngc.get_objects()")
    assert ask(hand_in, "return [m for m in sys.modules if m.startswith('checks')]") == []
    assert "a hand-in may not read" in ask(hand_in, "import checks.library")


@pytest.mark.parametrize(
    "body",
    [
        "open(args[0], 'w')",
        "open(args[0], 'r+')",
        "os.open(args[0], os.O_WRONLY | os.O_CREAT)",
        "os.remove(args[0])",
        "os.rename(args[0], 'here')",
        "import pathlib\npathlib.Path(args[0]).write_text('x')",
        "import shutil\nshutil.rmtree(os.path.dirname(args[0]))",
    ],
)
def test_no_change_outside_its_own_folder(hand_in, tmp_path, body):
    place = tmp_path / "elsewhere.txt"
    place.write_text("kept")
    assert "a hand-in may not change" in ask(hand_in, body, str(place))
    assert place.read_text() == "kept"


def test_it_may_write_where_it_stands_and_where_a_check_says(hand_in, tmp_path):
    body = "open('mine.txt', 'w').write('x')\nimport tempfile\ntempfile.TemporaryFile().write(b'x')"
    assert ask(hand_in, f"{body}\nreturn open('mine.txt').read()") == "x"
    place = tmp_path / "given"
    ask(hand_in, "os.mkdir(args[0])\n(args[0] / 'f').write_text('x')", place)
    assert (place / "f").read_text() == "x"


def test_it_reads_neither_the_key_nor_the_command_of_the_grader(hand_in):
    """An editable install puts the project's folder on the path, and with it the key."""
    assert "a hand-in may not read" in ask(hand_in, f"open({str(KEY)!r})")
    body = f"sys.path.insert(0, {str(KEY.parents[1])!r})\nimport tests.answer_key"
    assert "a hand-in may not read" in ask(hand_in, body)
    if LINUX:
        said = ask(hand_in, "open(f'/proc/{os.getppid()}/cmdline').read()")
        assert "a hand-in may not read" in said
    assert ask(hand_in, "return [name for name in os.environ if 'SEED' in name]") == []
    check = str(TUTORIALS / "checks" / "test_rung_4.py")
    assert "a hand-in may not read" in ask(hand_in, f"open({check!r})")


def test_the_audit_hook_names_what_a_late_import_may_read(hand_in):
    """The library and torch import some of their modules late. These must not be refused."""
    body = "import tinymem as tm\nmodel, tokenizer = tm.load('tiny')\n"
    body += "memory = tm.random_memory(tokenizer, 8)\n"
    body += "return tm.memorize(model, memory, rank=2, steps=3).report['steps']"
    assert ask(hand_in, body) == 3


@pytest.mark.skipif(not LINUX, reason="memory is limited on Linux only")
def test_memory_is_limited(hand_in):
    said = ask(hand_in, "return len(torch.ones(10**9))")
    assert "MemoryError: more memory than a hand-in may use" in said
    assert ask(hand_in, "return len(torch.ones(10**7))") == 10**7  # 40 of 300 MB


def test_the_process_says_which_limits_hold(computer, hand_in):
    hand_in("")
    assert ("memory" in computer.process.holds) == LINUX


@pytest.mark.parametrize(
    ("body", "limit"), [("while True: pass", 1), ("import time\ntime.sleep(100)", 0.25)]
)
def test_time_is_limited(hand_in, body, limit):
    where = body.splitlines()[-1]
    says = (
        f"f was stopped after {limit:g} s in line {2 + len(body.splitlines())}: {where}. Is there"
    )
    assert says in ask(hand_in, body, limit=limit)


def test_what_waits_for_others_gets_more_time(hand_in):
    """The time of the processor counts, so that a busy machine costs no points."""
    assert ask(hand_in, "import time\nreturn time.sleep(0.6) or 7", limit=0.3) == 7


def test_a_stopped_question_is_not_asked_again_and_others_get_a_quarter_of_the_time(hand_in):
    made = hand_in("def loop(): 1 + 1\ndef f(n):\n    while n: loop()\n    return n", limit=1)
    for argument, says in ((1, "after 1 s"), (1, "not tried again: "), (2, "after 0.25 s")):
        with pytest.raises(pytest.fail.Exception, match=says):
            made.call("f", argument)
    assert made.call("f", 0) == 0


def test_the_time_of_the_grader_does_not_count(hand_in):
    assert ask(hand_in, "return args[0]()", lambda: time.sleep(1.5) or 7, limit=1) == 7


def test_output_is_limited_and_shown(hand_in, capsys):
    assert ask(hand_in, "print('seen'); os.write(1, b'too')") is None
    assert "seen" in capsys.readouterr().out
    said = ask(hand_in, "while True: print('x' * 1000)")
    assert "f was stopped because it printed more than 1 MB" in said


def test_an_answer_that_ends_the_process(hand_in):
    assert "f ended the process (exit code 7)" in ask(hand_in, "os._exit(7)")


def test_after_an_end_the_process_starts_again_with_the_same_file(hand_in):
    made = hand_in("import os\ndef bad(): os._exit(1)\ndef good(): return 5")
    with pytest.raises(pytest.fail.Exception, match="bad ended the process"):
        made.call("bad")
    assert made.call("good") == 5
    with pytest.raises(pytest.fail.Exception, match="not tried again: bad ended"):
        made.call("bad")  # it is not called again


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the number of a parent that has ended")
def test_without_a_grader_the_process_ends_even_in_an_endless_loop(tmp_path):
    code = f"import os, sys; sys.path.append({str(TUTORIALS)!r})\n"
    code += "from checks.process import Process\nprocess = Process(300)\n"
    code += "loop = {'ask': 'load', 'part': 'exercises', 'path': 'x.py', 'library': []}\n"
    code += "process.say(loop | {'text': 'while True: pass'})\n"
    code += "print(process.process.pid, flush=True)\nos._exit(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(100):
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        if stat.exists() and stat.read_text().split()[2] == "Z":
            return  # it has ended, and only its entry is left
        time.sleep(0.1)
    os.kill(int(done.stdout), 9)
    pytest.fail("the process of the hand-in still runs")


def test_the_grader_cannot_be_changed_from_the_code(hand_in):
    """The checks judge in another process."""
    body = "import checks.grading as g\ng.require = lambda *_: None\ng.near = lambda *_: True"
    ask(hand_in, body)
    from checks.grading import near

    assert not near(1, 2)


def test_input_is_empty(hand_in):
    assert "EOFError" in ask(hand_in, "input()")


# --- Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(x)\n", "SyntaxError: expected ':' (line 1: def f(x))"),
        ("import torch\n1 / 0\n", "ZeroDivisionError: division by zero (line 2: 1 / 0)"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("exit()\n", "SystemExit"),
        ("x = '\0'\n", "null bytes"),
        ("import os; os._exit(3)\n", "it ended the process (exit code 3)"),
    ],
)
def test_a_file_that_cannot_be_imported(hand_in, text, says):
    reason = hand_in(text).reason
    assert reason.startswith("exercises.py cannot be imported: ") and says in reason
    assert "\n" not in reason.strip()


def notebook(*cells: tuple[str, list[str]]) -> str:
    made = [
        {"cell_type": "code", "metadata": {"tags": tags}, "source": source.splitlines(True)}
        for source, tags in cells
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_the_tagged_cells_of_a_notebook_are_the_answers(hand_in):
    text = notebook(("x = 5", ["answer"]), ("1 / 0", []), ("def f():\n    return x", ["answer"]))
    made = hand_in(text, "exercises.ipynb")
    assert made.reason is None and made.call("f") == 5
    made = hand_in(notebook(("a = 1\n1 / 0", ["answer"])), "exercises.ipynb")
    assert "exercises.py and exercises.ipynb are both there" in hand_in("x = 1").reason
    assert made.reason.endswith("division by zero (cell 1, line 2: 1 / 0)")


def test_a_cell_without_the_tag_is_named_if_one_of_its_names_is_missing(hand_in):
    cells = [("%matplotlib inline\nimport random\n\ndef g():\n    pass", []), ("for", [])]
    function = "x = 5\n\ndef f():\n    return random.random()"
    made = hand_in(notebook(*cells, (function, ["answer"])), "exercises.ipynb")
    message = "NameError: name 'random' is not defined (cell 3, line 4: return random.random())"
    where = "is in cell 1, which is not graded: it has no tag `answer`"
    with pytest.raises(pytest.fail.Exception) as failed:
        made.call("f")
    assert message in str(failed.value) and f"`random` {where}" in str(failed.value)
    stopped = source.in_cells("f was stopped in line 2: x = 5", made.path, made.source)
    assert stopped == "f was stopped in cell 3, line 1: x = 5"
    with pytest.raises(pytest.fail.Exception, match=f"no function g.*`g` {where}"):
        made.call("g")
    with pytest.raises(pytest.fail.Exception, match=r"Do not rename the functions$"):
        made.call("h")


def test_a_line_may_begin_with_the_operator_percent(hand_in):
    assert hand_in(notebook(("x = (7\n  % 4)", ["answer"])), "exercises.ipynb").value("x") == 3


def test_beside_the_untouched_file_of_the_course_the_notebook_is_graded(tmp_path):
    text = (TUTORIALS / "mymem.py").read_text(encoding="utf-8")
    (tmp_path / "mymem.py").write_bytes(text.replace("\n", "\r\n").encode())
    (tmp_path / "mymem.ipynb").touch()
    assert source.find(tmp_path, "mymem").suffix == ".ipynb"
    (tmp_path / "mymem.py").write_text(text + "x = 1\n", encoding="utf-8")
    with pytest.raises(source.Refused, match="are both there"):
        source.find(tmp_path, "mymem")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not a notebook"),
        ("[]", "is not a notebook"),
        ('{"cells": [1]}', "is not a notebook"),
        ('{"worksheets": []}', "is not a notebook"),
        ("[" * 100_000, "is not a notebook"),
        (notebook(("x = 1", [])), "no code cell with the tag `answer`"),
        (
            notebook(("%timeit f()", ["answer"])),
            "Cell 1 of exercises.ipynb has a line for the note",
        ),
    ],
)
def test_a_notebook_that_cannot_be_graded(hand_in, text, says):
    assert says in hand_in(text, "exercises.ipynb").reason


def test_a_folder_without_the_file_and_a_file_that_is_no_text(hand_in, tmp_path, computer):
    empty = HandIn("rungs", tmp_path, computer)
    assert empty.load() == "neither mymem.py nor mymem.ipynb is there"
    (tmp_path / "exercises.py").write_bytes(b"\xff\xfe\x00")
    assert HandIn("exercises", tmp_path, computer).load() == "exercises.py is not a text in UTF-8"
    (tmp_path / "exercises.py").write_bytes(b"\xef\xbb\xbf \n")
    assert HandIn("exercises", tmp_path, computer).load() == "exercises.py is empty"
    (tmp_path / "exercises.py").write_bytes(b"#" * 2**21)
    assert "has more than 1 MB" in HandIn("exercises", tmp_path, computer).load()


def test_a_raised_exception_can_be_the_answer(hand_in):
    made = hand_in("def f(): assert 1 == 2, 'no'")
    assert made.call("f", catch=True) == Raised(
        "AssertionError: no (line 1: def f(): assert 1 == 2, 'no')"
    )
