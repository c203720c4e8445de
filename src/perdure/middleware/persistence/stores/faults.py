"""What is wrong with a turn or a row itself, whichever store it is: worded here once.

Classes, and no generators: these stand around every operation. Where many turns go together, and each that is not as it
should be is asked about again by itself, no words are needed: `OF_ONE_TURN` says what may be caught there.
"""

from perdure.errors import StoreError, StoreUnavailable

__all__ = ["OF_ONE_TURN", "decoded", "encoded"]

_UNWRITABLE = (ValueError, LookupError, TypeError, RecursionError)
_NOT_OURS = (ValueError, LookupError, TypeError, AttributeError)

OF_ONE_TURN = (StoreError, RecursionError, *_NOT_OURS)
"""What making it ready, or making something of the reply to it, may raise."""


class encoded:  # noqa: N801 - read as a word in a `with`
    """
    Raises:
        StoreError: A turn holds what cannot be written down.
    """

    __slots__ = ("_turn_id",)

    def __init__(self, turn_id: str) -> None:
        self._turn_id = turn_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, _UNWRITABLE):
            raise StoreError(
                f"The turn {self._turn_id} holds something that cannot be written down ({error}).",
                remedy="look at what the tool was given and what it gave back.",
            ) from error


class decoded:  # noqa: N801
    """
    Raises:
        StoreUnavailable: A row holds what perdure did not write, or what only another Python can read.
    """

    __slots__ = ("_where",)

    def __init__(self, where: object) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, RecursionError):
            raise StoreUnavailable(
                f"The database {self._where} holds a turn that is nested more deeply than this Python reads.",
                remedy="read it with the version of Python that the server runs on.",
            ) from error
        if isinstance(error, _NOT_OURS):
            raise StoreUnavailable(
                f"The database {self._where} holds something that perdure did not write ({error}).",
                remedy="put a backup in its place, or mend the row that another program changed.",
            ) from error
