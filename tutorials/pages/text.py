"""Markdown, mathematics and code as HTML that needs no script and no network."""

import re
from collections.abc import Callable
from html import escape

import latex2mathml.converter
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from .lessons import CourseError

# From the target of a link or a picture to a link of the site; None if the site has no such page.
Resolve = Callable[[str], str | None]


def slug(title: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", title).lower())
    return kept.strip().replace(" ", "-")


def code(source: str, language: str) -> str:
    """A block of code in colours, which the keyboard can scroll."""
    try:
        lexer = get_lexer_by_name(language or "text", stripnl=False)
    except ClassNotFound:
        lexer = get_lexer_by_name("text", stripnl=False)
    marked = highlight(source.rstrip("\n"), lexer, HtmlFormatter(nowrap=True))
    marked = f"<code>{marked}</code>"
    return f'<pre class="code" role="group" aria-label="Code" tabindex="0">{marked}</pre>\n'


def mathematics(latex: str, options: dict) -> str:
    """A formula as MathML. TeX puts a thin space behind the name of a function, MathML does not."""
    latex = re.sub(r"\\ln (?=[\w\\])", r"\\ln\\, ", latex)
    display = "block" if options["display_mode"] else "inline"
    try:
        formula = latex2mathml.converter.convert(latex, display=display)
    except Exception as error:  # of many kinds: the converter has no class of its own
        raise CourseError(f"the formula {latex} is not complete") from error
    unknown = re.search(r">(\\[a-zA-Z]+)", formula)
    if unknown:
        raise CourseError(f"the formula {latex} has an unknown command, {unknown[1]}")
    return formula


def table_open(tokens: list[Token], at: int, *_: object) -> str:
    """A table that the keyboard can scroll; one of many columns is set in smaller letters."""
    head = next(n for n in range(at, len(tokens)) if tokens[n].type == "thead_close")
    columns = sum(token.type == "th_open" for token in tokens[at:head])
    size = "scroll small" if columns > 5 else "scroll"
    return f'<div class="{size}" role="group" aria-label="Table" tabindex="0"><table>\n'


def picture(tokens: list[Token], at: int, *_: object) -> str:
    """A picture that opens on its own, where it can be enlarged."""
    token = tokens[at]
    source, alt = escape(str(token.attrs["src"])), escape(token.content)
    return f'<a href="{source}"><img src="{source}" alt="{alt}"></a>'


class Text:
    """Renders the Markdown of one page. Headings keep their anchors unique."""

    def __init__(self, resolve: Resolve, mention: Resolve):
        """resolve: links and pictures. mention: code in the text that may name a file."""
        self.resolve, self.mention = resolve, mention
        self.seen: dict[str, int] = {}
        self.headings: list[tuple[str, str, str]] = []  # tag, anchor, text
        self.parser = MarkdownIt("commonmark", {"html": False}).enable("table")
        self.parser.use(
            dollarmath_plugin,
            allow_space=False,
            allow_digits=False,
            double_inline=True,
            renderer=mathematics,
        )
        rules = self.parser.renderer.rules
        rules["fence"] = lambda tokens, at, *_: code(tokens[at].content, tokens[at].info.strip())
        rules["code_block"] = lambda tokens, at, *_: code(tokens[at].content, "text")
        rules["table_open"] = table_open
        rules["image"] = picture
        rules["table_close"] = lambda *_: "</table></div>\n"
        rules["code_inline"] = self.inline_code
        rules["text"] = self.plain_text

    @property
    def title(self) -> str:
        """The first heading of the page."""
        if not self.headings:
            raise CourseError("no heading")
        return self.headings[0][2]

    def html(self, markdown: str) -> str:
        markdown = re.sub(r"^<!-- .*? -->\n", "", markdown, flags=re.MULTILINE)
        tokens = self.parser.parse(markdown)
        for at, token in enumerate(tokens):
            if token.type == "heading_open":
                token.attrs["id"] = self.anchor(token.tag, tokens[at + 1])
            elif token.type == "inline":
                self.links(token.children or [])
        return self.parser.renderer.render(tokens, self.parser.options, {})

    def anchor(self, tag: str, heading: Token) -> str:
        """A unique anchor for the heading."""
        plain = "".join(child.content for child in heading.children or [])
        name = slug(plain)
        times = self.seen[name] = self.seen.get(name, -1) + 1
        name = f"{name}-{times}" if times else name
        self.headings.append((tag, name, plain))
        return name

    def links(self, children: list[Token]) -> None:
        """Points links and pictures to their places in the site; drops a link that has none."""
        dropped = inside = False
        for token in children:
            if token.type == "link_open":
                inside, href = True, self.resolve(str(token.attrs["href"]))
                dropped = href is None
                token.attrs["href"] = href or ""
            elif token.type == "image":
                token.attrs["src"] = self.resolve(str(token.attrs["src"])) or ""
            token.meta["linked"] = inside
            if token.type in ("link_open", "link_close") and dropped:
                token.type, token.tag, token.content = "text", "", ""
            inside = inside and token.type != "link_close"

    def inline_code(self, tokens: list[Token], at: int, *_: object) -> str:
        """Code in the text; the name of a file of the library becomes a link to it."""
        text = tokens[at].content
        href = None if tokens[at].meta.get("linked") else self.mention(text)
        shown = f"<code>{escape(text)}</code>"
        return f'<a href="{escape(href)}">{shown}</a>' if href else shown

    def plain_text(self, tokens: list[Token], at: int, *_: object) -> str:
        """Text; the name of a file of the library becomes a link to it."""
        text = escape(tokens[at].content)
        if tokens[at].meta.get("linked"):
            return text
        return re.sub(r"\btinymem/[\w/]+\.py\b", lambda match: self.named(match[0]), text)

    def named(self, file: str) -> str:
        href = self.mention(file)
        return f'<a href="{escape(href)}">{file}</a>' if href else file
