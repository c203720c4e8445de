"""Keeps very large messages in the file store, and gives them back whole."""

from perdure.middleware.persistence.large_messages.store import LargeMessages

__all__ = ["LargeMessages"]
