"""The tools of `chat_server.py` over streamable HTTP, and three that take and make files: see docs/docker.md.

As there, nothing but `@persisted` has to do with being kept, and the client gets storage URIs for the paths below.
"""

import argparse
import base64
import hashlib
import random
import tempfile
from pathlib import Path

from chat_server import mcp
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from perdure import install, persisted


@mcp.tool()
@persisted
def upload(name: str, content: str) -> str:
    """Take a file from the client (`content` in base64), and say where it is."""
    file = Path(tempfile.mkdtemp(), Path(name).name)
    file.write_bytes(base64.b64decode(content, validate=True))
    return str(file)


@mcp.tool()
@persisted
def make_file(megabytes: int, seed: int) -> str:
    """Write a file of that size, always the same for the same seed, and say where it is."""
    made = random.Random(seed)
    file = Path(tempfile.mkdtemp(), f"made-{megabytes}-{seed}.bin")
    with file.open("wb") as content:
        for _ in range(megabytes):
            content.write(made.randbytes(1_000_000))
    return str(file)


@mcp.tool()
@persisted
def checksum(path: str) -> str:
    """The SHA-256 of a file, and its size. Knows of local paths only."""
    with Path(path).open("rb") as content:
        return f"{hashlib.file_digest(content, 'sha256').hexdigest()} {Path(path).stat().st_size} bytes"


async def health(_request: Request) -> Response:
    """That the process answers; not whether a store does, since tools answer without one too."""
    return PlainTextResponse("ok")


mcp.custom_route("/health", methods=["GET"])(health)
install(mcp)  # for `resources/read`, by which a client gets a file back


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    here = ["127.0.0.1:*", "localhost:*", "[::1]:*"]
    # No authentication: so only for this machine, and for no page that a browser on it opened (DNS rebinding).
    security = TransportSecuritySettings(allowed_hosts=here, allowed_origins=[f"http://{host}" for host in here])
    mcp.run("streamable-http", host=options.host, port=options.port, transport_security=security)


if __name__ == "__main__":
    main()
