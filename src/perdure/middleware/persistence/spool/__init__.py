"""The local durable queue for when a store is away: what waits there is acknowledged, and sent in order later."""

from perdure.middleware.persistence.spool.spool import Spool

__all__ = ["Spool"]
