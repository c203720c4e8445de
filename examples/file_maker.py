"""Tools that make files of files: a table becomes a chart. They know of local paths, and clients of storage URIs.

python file_maker.py
"""

import csv
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

from mcp.server.mcpserver import MCPServer

from perdure import install, persisted

mcp = MCPServer("file-maker")


@mcp.tool()
@persisted
def table(rows: list[list[str]], name: str = "table") -> str:
    """Write rows of a label and a number as CSV, and say where it is."""
    file = Path(tempfile.mkdtemp(), f"{Path(name).name}.csv")
    with file.open("w", newline="") as content:
        csv.writer(content).writerows(rows)
    return str(file)


@mcp.tool()
@persisted
def chart(path: str) -> str:
    """Draw a table as bars, and say where the picture is."""
    with Path(path).open(newline="") as content:
        bars = [(label, float(number)) for label, number in csv.reader(content)]
    widest = max(number for _, number in bars) or 1
    drawn = [
        f'<text x="0" y="{20 * line + 14}">{escape(label)}</text>'
        f'<rect x="90" y="{20 * line}" width="{300 * number / widest:.0f}" height="16" fill="#4c78a8"/>'
        for line, (label, number) in enumerate(bars)
    ]
    file = Path(tempfile.mkdtemp(), f"{Path(path).stem}.svg")
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="{20 * len(bars)}" font-size="12">'
        f"{''.join(drawn)}</svg>"
    )
    return str(file)


install(mcp)  # for `resources/read`, by which a client gets a file's bytes

if __name__ == "__main__":
    mcp.run()
