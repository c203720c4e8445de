"""`perdure run`: every MCP server that is made in this process is covered as by `install(server)`, its code untouched.

Nothing is imported for that: each SDK is waited for.
"""

import os

from perdure.logs import log_to_stderr
from perdure.middleware.server_hook.every_server import hook_every_server

__all__ = ["cover_servers"]


def cover_servers() -> None:
    """Cover the servers that are made from now on."""
    log_to_stderr()
    hook_every_server(_note_that_this_is_a_server)


def _note_that_this_is_a_server() -> None:
    # Programs that a server starts are not covered by its `perdure run`: see bootstrap/sitecustomize.py.
    os.environ["_PERDURE_SERVER"] = str(os.getpid())
