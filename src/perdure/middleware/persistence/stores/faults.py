"""What is wrong with a turn or a row itself, whichever store it is: worded here once."""

import contextlib
from collections.abc import Iterator

from perdure.errors import StoreError, StoreUnavailable

__all__ = ["decoded", "encoded"]


@contextlib.contextmanager
def encoded(turn_id: str) -> Iterator[None]:
    """
    Raises:
        StoreError: A turn holds what cannot be written down.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise StoreError(
            f"The turn {turn_id} holds something that cannot be written down ({error}).",
            remedy="look at what the tool was given and what it gave back.",
        ) from error


@contextlib.contextmanager
def decoded(where: object) -> Iterator[None]:
    """
    Raises:
        StoreUnavailable: A row holds what perdure did not write.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreUnavailable(
            f"The database {where} holds something that perdure did not write ({error}).",
            remedy="put a backup in its place, or mend the row that another program changed.",
        ) from error
