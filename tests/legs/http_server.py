"""A process that serves the asking tool over stateless streamable HTTP: `python http_server.py WAY PORT_FILE`."""

import socket
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvicorn
from legs.asking import ASKING, Booking


def main() -> None:
    way, port_file = sys.argv[1:]
    served: Any = ASKING[way](Booking())
    app = served.streamable_http_app(stateless_http=True, json_response=True)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)  # before anybody is told where
        Path(f"{port_file}.new").write_text(str(listening.getsockname()[1]))
        Path(f"{port_file}.new").rename(port_file)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
