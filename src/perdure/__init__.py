"""Memory for MCP tools: conversations that survive restarts, without a change to a tool's body."""

from perdure.errors import DecoratorError, PerdureError, SettingsError
from perdure.middleware.decorator import persisted
from perdure.middleware.persistence.history import Conversation, History, HistoryState, current_conversation
from perdure.middleware.persistence.turn import Answer, Outcome, StoredFile, Turn
from perdure.middleware.persistence.wiring import stored_files
from perdure.middleware.server_hook import install

__all__ = [
    "Answer",
    "Conversation",
    "DecoratorError",
    "History",
    "HistoryState",
    "Outcome",
    "PerdureError",
    "SettingsError",
    "StoredFile",
    "Turn",
    "current_conversation",
    "install",
    "persisted",
    "stored_files",
]

__version__ = "0.1.0"
