"""Prompts through chat templates, which are programs from strangers.

Oracle: transformers' own rendering, of templates with the structure of those in use, and of every
construct by itself. By hand: the fixed date. Property: a template gives a text or a
CheckpointError within its limits, and reaches nothing outside the sandbox.
"""

import time
from datetime import datetime

import pytest
from transformers import PreTrainedTokenizerFast

from tests.base.chats import TEMPLATES as KNOWN
from tests.checkpoints import tokenizer
from tinymem.base import template as module
from tinymem.base.template import format_today, render, render_chats
from tinymem.errors import CheckpointError

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
CONSTRUCTS = {
    "bos": "{{bos_token }}{% for m in messages %}{{ m.role }}{{ m.content|trim }}{% endfor %}"
    "{{ eos_token }}",
    "undefined token": "{{ pad_token }}|{{ messages[0].content }}",
    # trim_blocks and lstrip_blocks decide about these line ends and indents
    "blocks": "{% for m in messages %}\n  {% if m.role %}\n {{ m.content }}\n  {% endif %}\n"
    "{% endfor %}\n\n",
    "dashes": "a  {%- for m in messages -%}  {{ m.content }}  {%- endfor -%}  b \n",
    "loop": "{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{{ m.content }}{% endfor %}",
    "break": "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "continue": "{% for i in range(5) %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}"
    "{% endfor %}",
    "namespace": "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = 1 %}"
    "{% endfor %}{{ n.x }}",
    "macro": "{% macro say(x) %}<{{ x }}>{% endmacro %}{{ say(messages[0].content) }}",
    "tojson": "{{ messages | tojson }} {{ messages | tojson(indent=2) }}",
    "tojson ascii": "{{ messages | tojson(ensure_ascii=True, sort_keys=True) }}",
    "escapes": "{{ '<&>' }} {{ messages[0].content }}",
    "tools none": "{% if tools is not none %}tools{% endif %}"
    "{% if documents is none %}no more{% endif %}",
    "tools defined": "{% if tools is defined and tools %}tools{% else %}plain{% endif %}",
    "prompt": "{{ messages[0]['content'].split('n')[0].strip().upper() }}"
    "{{ add_generation_prompt }}",
    # what transformers' templates have beside jinja2's own
    "generation": "{% for m in messages %}\n  {% generation %}\n  {{ m.content }}\n"
    "{% endgeneration %}\n{% endfor %}",
    "generation in a loop": "{% for i in range(3) %}{% generation %}{{ loop.index }}{{ i }}"
    "{% endgeneration %}{% endfor %}",
    "generation keeps names": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}"
    "{% endgeneration %}{{ x }}",
    "tojson by place": "{{ messages | tojson(true, 1) }}{{ {'b': 1, 'a': 2} | tojson(false, none, "
    "(',', ':'), true) }}",
}
MESSAGES = ["Where is the thing?", '  <b>"quoted" & ünïcödé</b> 👍\n{{ bos_token }} /no_think ']
HOSTILE = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "function globals": "{{ strftime_now.__globals__['json'] }}",
    "init": "{{ cycler.__init__.__globals__.os.getcwd() }}",
    "loop": "{% for m in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "change": "{{ messages.append(1) }}",
    "clear": "{{ messages[0].clear() }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "huge range": "{% for i in range(10**9) %}{% endfor %}",
}
BLANK = {  # jinja2 hands out its "undefined" for these, which prints as nothing
    "attr filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "format map": "{{ '{x.__class__}'.format_map({'x': 1}) }}",
}
FAILING = {
    "raise": "{{ raise_exception('roles must\\nalternate') }}",
    "syntax": "{% for m in messages %}",
    "undefined": "{{ nobody.name }}",
    "type": "{{ messages + 'x' }}",
    "zero": "{{ 1 / 0 }}",
    "index": "{{ messages[7].content }}",
    "not json": "{{ raise_exception | tojson }}",
    "endless": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "filter": "{{ messages | nonsense }}",
}
# Each would run for hours or need gigabytes: loops, C code that holds the lock, texts, recursion.
ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 2 ** (2 ** 33) }}",
    "nested": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ n.x | tojson }}",
}
HUGE = {
    "product": "{{ 'a' * 10**10 }}",
    "list": "{{ ([1] * 10**11) | length }}",
    "padding": "{{ '{:>9999999999}'.format(1) }}",
    "filter": "{{ messages | map(attribute='role') | map('center', 10**10) | list }}",
    "output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "constant": "{{ 'a' ~ 'b' * 2000000 }}",
    "expression": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
}


def ours(template: str, messages: list[str] = MESSAGES) -> list[str]:
    """In this process; the child of render_chats does the same."""
    return render(template, NAMES, messages)


def refusal(template: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        render_chats(template, NAMES, "place/chat_template.jinja", ["the"])
    message = str(caught.value)
    assert message.startswith("place/chat_template.jinja: the chat template fails: ")
    assert "--no-chat" in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    "template", [*KNOWN.values(), *CONSTRUCTS.values()], ids=[*KNOWN, *CONSTRUCTS]
)
def test_templates_equal_transformers(template):
    chats = [[{"role": "user", "content": message}] for message in MESSAGES]
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), **NAMES)
    how = {"chat_template": template, "tokenize": False, "add_generation_prompt": True}
    assert ours(template) == theirs.apply_chat_template(chats, **how)


def test_many_messages_in_one_child():
    messages = [f"number {n} – ü \ud83d" for n in range(300)]
    start = time.monotonic()
    found = render_chats(KNOWN["qwen 3"], NAMES, "", messages)
    assert found == ours(KNOWN["qwen 3"], messages)
    assert time.monotonic() - start < 300 * 0.05  # a child for each would take twice that


def test_the_date_is_fixed_and_has_every_form():
    assert ours("{{ strftime_now('%Y-%m-%d') }}", ["x"]) == ["2026-01-01"]
    assert format_today("%d %b %Y, %A") == "01 Jan 2026, Thursday"
    assert format_today("%-d.%-m.%y %H:%M:%S %-I %j 100%%d") == "1.1.26 00:00:00 12 001 100%d"
    assert format_today("%B %-H") == "January 0"
    assert format_today("%s") == "1767225600"
    for form in ("%F %T", "%d/%m/%Y", "%a %d %b", "%-d %B %Y", "%I:%M %p", "%", "ü %Y 年"):
        assert format_today(form) == datetime(2026, 1, 1).strftime(form)


@pytest.mark.parametrize(
    "template", [*HOSTILE.values(), *FAILING.values()], ids=[*HOSTILE, *FAILING]
)
def test_templates_that_are_refused(template):
    refusal(template)


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_templates_that_would_not_end(template, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.5)
    start = time.monotonic()
    assert "more than" in refusal(template)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("template", HUGE.values(), ids=HUGE)
def test_templates_that_would_fill_the_memory(template):
    start = time.monotonic()
    refusal(template)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("template", BLANK.values(), ids=BLANK)
def test_templates_that_reach_nothing(template):
    assert ours(f"[{template}]", ["the"]) == ["[]"]


def test_the_reason_of_a_template_is_told():
    assert "only in pairs" in refusal("{{ raise_exception('only in pairs') }}")


def test_without_an_interpreter_to_start(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert "no process can be started" in refusal("a template of its own")
