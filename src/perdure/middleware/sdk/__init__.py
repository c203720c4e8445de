"""The MCP SDK of this process. Everything that knows one stands in this folder, and in the hooks of `server_hook`."""

from importlib.metadata import version

from perdure.middleware.sdk import mcp_v1, mcp_v2
from perdure.middleware.sdk.interface import IncomingRequest, RegisteredTool, Sdk

__all__ = ["IncomingRequest", "RegisteredTool", "Sdk", "mcp_is_version_1", "sdk"]

mcp_is_version_1 = version("mcp").startswith("1.")

sdk: Sdk = mcp_v1 if mcp_is_version_1 else mcp_v2
"""What the seams ask of an MCP SDK, whichever of them this process has."""
