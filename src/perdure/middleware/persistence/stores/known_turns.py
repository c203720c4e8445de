"""An answered turn that this process knows: none of ours ever changes, so it need not be read again."""

from typing import NamedTuple

from perdure.middleware.persistence.turn import Turn

__all__ = ["OF_A_TURN", "KnownTurn"]

OF_A_TURN = 1000
"""Characters: counted for a turn beside its texts. The smallest takes 1.4 KB."""


class KnownTurn(NamedTuple):
    turn: Turn
    """Shared: nobody may change the JSON in it."""
    characters: int
    """Of its row, and for what it is besides."""
    made_of: object = None
    """The version of its row, or the row itself, where that is still to be compared."""
