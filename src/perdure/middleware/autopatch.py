"""`perdure run`: every MCP server that is made in this process is covered as by `install(server)`, its code untouched.

Nothing is imported for that: each SDK is waited for.
"""

import os

from perdure.logs import log_to_stderr
from perdure.middleware.sdk import mcp_is_version_1
from perdure.middleware.server_hook.mcp_v1 import hook_every_server as hook_every_server_of_v1
from perdure.middleware.server_hook.mcp_v2 import hook_every_server as hook_every_server_of_v2

__all__ = ["cover_servers"]

_HOOKS = (hook_every_server_of_v1 if mcp_is_version_1 else hook_every_server_of_v2,)
"""Of the SDKs that this process can have. Each takes `made`, to be called for every server, and raises nothing into the
server's code."""


def cover_servers() -> None:
    """Cover the servers that are made from now on."""
    log_to_stderr()
    for hook_every_server in _HOOKS:
        hook_every_server(_note_that_this_is_a_server)


def _note_that_this_is_a_server() -> None:
    # Programs that a server starts are not covered by its `perdure run`: see bootstrap/sitecustomize.py.
    os.environ["_PERDURE_SERVER"] = str(os.getpid())
