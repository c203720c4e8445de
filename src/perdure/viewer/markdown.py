"""Markdown that a tool or a model wrote, as HTML that can do nothing.

markdown-it makes only tags of its own here (`html` is off, so `<script>` is text), and of what it makes, only links and
images lead anywhere: both are decided below. So nothing is left for a sanitizer to take away.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

from perdure.readable import printable_text

__all__ = ["LONGEST", "FileLink", "as_html"]

FileLink: TypeAlias = Callable[[str], str]
"""Where on this page the file is that a storage URI names."""


def as_html(text: str, file_link: FileLink) -> Markup | None:
    """None if it cannot be shown so: it is too long, or markdown-it would leave out what is nested too deeply."""
    if len(text) > LONGEST:
        return None
    env = {"file_link": file_link}
    tokens = _MARKDOWN.parse(printable_text(text), env)
    if any(token.level >= _DEEPEST - 1 for token in tokens):
        return None
    _lower_headings(tokens)
    rendered: Any = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, env)
    return Markup(rendered)  # noqa: S704 - markdown-it has escaped all that it did not make


LONGEST = 50_000
"""Characters. The worst that somebody can write takes time in proportion to its square: half a second for so many."""

_DEEPEST = 20


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
            return urlsplit(url).scheme.lower() in ("http", "https", "mailto", "storage")
        except ValueError:
            return False


_MARKDOWN = _Markdown(
    "commonmark", {"html": False, "breaks": True, "maxNesting": _DEEPEST}, renderer_cls=_Renderer
).enable(["table", "strikethrough"])
