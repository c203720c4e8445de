"""The MCP SDKs of this process. Everything that knows one stands in this folder, and in the hooks of `server_hook`."""

from importlib.metadata import version

from perdure.middleware.sdk.interface import IncomingRequest, RegisteredTool, Sdk

__all__ = ["IncomingRequest", "RegisteredTool", "Sdk", "mcp_is_version_1", "sdk"]

mcp_is_version_1 = version("mcp").startswith("1.")

sdk: Sdk
"""What the seams ask of an MCP SDK. A process has one version of mcp, and perhaps fastmcp 4 beside it: see `choice`."""
if mcp_is_version_1:
    from perdure.middleware.sdk import mcp_v1

    sdk = mcp_v1
else:
    from perdure.middleware.sdk import choice

    sdk = choice
