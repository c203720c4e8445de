"""What Storage answers, told from what something else answers in its place: one table sorts it all."""

from collections.abc import Callable
from typing import TypeVar

import httpx
from storage3.exceptions import StorageApiError

__all__ = ["only_of_storage", "raise_if_refused"]

T = TypeVar("T")


def only_of_storage(work: Callable[[], T]) -> T:
    """What `work`, a request of the official client, returned.

    Raises:
        ValueError: The refusal was none of Storage's. Its status 404 would else be that of a file that is missing.
    """
    try:
        return work()
    except StorageApiError as error:
        if error.message.startswith("Unable to parse error message"):
            raise ValueError("an answer that is none of Storage's") from error
        raise


def raise_if_refused(response: httpx.Response) -> None:
    """
    Raises:
        StorageApiError: As the official client raises it.
        ValueError: The refusal is none of Storage's: a gateway's, or a proxy's.
    """
    if response.is_success:
        return
    response.read()
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        raise StorageApiError(
            str(body.get("message", "")),
            str(body.get("code") or body.get("error") or ""),
            str(body.get("statusCode") or response.status_code),
        )
    if response.headers.get("content-type", "").startswith("text/plain"):  # so the resumable API answers
        raise StorageApiError(response.text.strip(), "", response.status_code)
    raise ValueError("an answer that is none of Storage's")
