"""The MCP SDKs of this process. Everything that knows one stands in this folder, and in the hooks of `server_hook`."""

from perdure.middleware.sdk import choice
from perdure.middleware.sdk.interface import IncomingRequest, RegisteredTool, Sdk

__all__ = ["IncomingRequest", "RegisteredTool", "Sdk", "sdk"]

sdk: Sdk = choice
