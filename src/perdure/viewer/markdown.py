"""Markdown that a tool or a model wrote, as HTML that can do nothing.

markdown-it makes only tags of its own here (`html` is off, so `<script>` is text), and of what it makes, only links and
images lead anywhere: both are decided below. So nothing is left for a sanitizer to take away.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock, table
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

from perdure.readable import printable_text

__all__ = ["LONGEST", "FileLink", "as_html"]

FileLink: TypeAlias = Callable[[str], str]
"""Where on this page the file is that a storage URI names."""


def as_html(text: str, file_link: FileLink) -> Markup | None:
    """None if it cannot be shown so: it is or would become too long, or markdown-it would leave out what is nested
    too deeply."""
    if len(text) > LONGEST:
        return None
    env: dict[str, Any] = {"file_link": file_link, _GROWS: False}
    tokens = _MARKDOWN.parse(printable_text(text), env)
    if env[_GROWS] or _characters_of_links(tokens) > LONGEST or any(token.level >= _DEEPEST - 1 for token in tokens):
        return None
    _lower_headings(tokens)
    rendered: Any = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, env)
    return Markup(rendered)  # noqa: S704 - markdown-it has escaped all that it did not make


LONGEST = 50_000
"""Characters. The worst that somebody can write takes time in proportion to its square: seconds for so many."""

_DEEPEST = 20

_GROWS = "grows"


def _characters_of_links(tokens: Sequence[Token]) -> int:
    """Each `[a]` repeats the whole address and title of its reference: a page could become a thousand times longer."""
    inline = (child for token in tokens for child in token.children or ())
    return sum(len(str(value)) for token in inline for value in token.attrs.values())


def _table_as_written(state: StateBlock, first: int, end: int, silent: bool) -> bool:
    """A table, unless most of its cells would be made up: every row is filled up to the width of the first."""
    if not table(state, first, end, True):
        return False
    if silent:
        return True
    if not state.env[_GROWS]:
        last = next((line for line in range(first, end) if state.isEmpty(line)), end) - 1
        columns = state.src.count("|", state.bMarks[first], state.eMarks[first]) + 1
        state.env[_GROWS] = columns * (last - first) > 2 * (state.eMarks[last] - state.bMarks[first])
    return not state.env[_GROWS] and table(state, first, end, False)


def _lower_headings(tokens: Sequence[Token]) -> None:
    """Below those of the page, and without a gap: what reads pages aloud goes by their levels."""
    headings = [token for token in tokens if token.type in ("heading_open", "heading_close")]
    levels = sorted({token.tag for token in headings})
    for token in headings:
        token.tag = f"h{min(4 + levels.index(token.tag), 6)}"


class _Renderer(RendererHTML):
    def link_open(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[index]
        address = str(token.attrGet("href"))
        if address.startswith(_STORED):
            token.attrSet("href", env["file_link"](address))
        else:
            token.attrSet("rel", "noopener noreferrer nofollow")
            token.attrSet("target", "_blank")
        return self.renderToken(tokens, index, options, env)

    def table_open(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        """A wide one is moved within its frame, with the keyboard too, and makes no page wider."""
        return '<div class="wide" role="group" aria-label="Table" tabindex="0">' + self.renderToken(
            tokens, index, options, env
        )

    def table_close(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        return self.renderToken(tokens, index, options, env) + "</div>\n"

    def image(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        """A kept one is shown. To load another would tell whoever put it there that somebody reads this."""
        token = tokens[index]
        address = str(token.attrGet("src"))
        if address.startswith(_STORED):
            token.attrSet("src", env["file_link"](address))
            return super().image(tokens, index, options, env)
        return self.text([Token("text", "", 0, content=f"[image: {token.content or address}]")], 0, options, env)


_STORED = "storage://"


class _Markdown(MarkdownIt):
    def validateLink(self, url: str) -> bool:  # noqa: N802 - its name there
        """A link leads outside or to a kept file. Anything else, addresses on our own pages among it, stays text."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        match parts.scheme.lower():
            case "http" | "https":
                return bool(parts.netloc)  # To a browser, `http:text` is the page `text` of this very server.
            case scheme:
                return scheme in ("mailto", "storage")


_MARKDOWN = _Markdown(
    "commonmark", {"html": False, "breaks": True, "maxNesting": _DEEPEST}, renderer_cls=_Renderer
).enable(["table", "strikethrough"])
_MARKDOWN.block.ruler.at("table", _table_as_written, {"alt": ["paragraph", "reference"]})
