"""Memory stays flat: a file of 500 MB goes out and comes back, and the process does not grow by a tenth of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

SIZE = 500_000_000

THERE_AND_BACK = """
import json, os, sys
from pathlib import Path

import anyio
from mcp import Client
from mcp.server.mcpserver import MCPServer
from perdure import persisted
from perdure.middleware.persistence.wiring import activated, build
from perdure.settings import Settings, ToolSettings

root, size, hungry = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "hungry"
server = MCPServer("large")


@server.tool()
@persisted
async def give(path: str) -> str:
    return path


@server.tool()
@persisted
async def take(path: str) -> str:
    if hungry:
        ballast = Path(path).read_bytes()
    status = os.stat(path)
    with open(path, "rb") as file:
        file.seek(-1000, os.SEEK_END)
        return f"{status.st_size} {file.read() == END}"


END = os.urandom(1000)


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


async def there_and_back(client, size):
    path = root / f"{size}.bin"
    with path.open("wb") as file:
        file.truncate(size - len(END))
        file.seek(0, os.SEEK_END)
        file.write(END)
    uri = (await client.call_tool("give", {"path": str(path)})).content[0].text
    path.unlink()
    after_out = peak()
    return uri, after_out, (await client.call_tool("take", {"path": uri})).content[0].text


async def main():
    limits = {"max_file_bytes": size, "max_turn_bytes": size, "file_timeout": 120}
    with activated(build(Settings(defaults=ToolSettings(file_roots=(root,), **limits)))):
        async with Client(server) as client:
            await there_and_back(client, 3_000_000)  # so that all there is to import is there
            before = peak()
            uri, after_out, back = await there_and_back(client, size)
            print(json.dumps([uri, back, after_out - before, peak() - before]))


anyio.run(main)
"""


def there_and_back(folder: Path, kind: str, size: int = SIZE) -> tuple[str, str, int, int]:
    """The URI, what the tool saw of its copy, and the bytes by which the peak grew on the way out and in all."""
    root = folder / "root"
    root.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", THERE_AND_BACK, str(root), str(size), kind],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    uri, back, out, both = json.loads(done.stdout)
    return uri, back, out, both


def test_a_file_of_500_mb_goes_out_and_comes_back_within_50_mb(tmp_path: Path) -> None:
    uri, back, out, both = there_and_back(tmp_path, "modest")
    assert uri.startswith("storage://")
    assert back == f"{SIZE} True"
    assert out <= 50_000_000
    assert both <= 50_000_000


def test_a_tool_that_reads_it_all_at_once_is_noticed(tmp_path: Path) -> None:
    """The control: this way of measuring sees what it must."""
    _, _, _, both = there_and_back(tmp_path, "hungry", 100_000_000)
    assert both > 90_000_000
