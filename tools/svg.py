"""How rich draws a terminal as SVG, without the fonts that it would have a browser load from elsewhere."""

import re

from rich._export_format import CONSOLE_SVG_FORMAT

__all__ = ["WITHOUT_FONTS"]

WITHOUT_FONTS = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""A `code_format` for `Console.export_svg`."""
