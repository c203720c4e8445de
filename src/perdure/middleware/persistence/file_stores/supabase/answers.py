"""Answers of Storage to requests that the official client does not make."""

import httpx
from storage3.exceptions import StorageApiError

__all__ = ["raise_if_refused"]


def raise_if_refused(response: httpx.Response) -> None:
    """
    Raises:
        StorageApiError: As the official client raises it, so that one table sorts them all.
    """
    if response.is_success:
        return
    response.read()
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        # The resumable API answers in plain text; a gateway in HTML, which is nobody's message.
        text = response.text if response.headers.get("content-type", "").startswith("text/plain") else ""
        raise StorageApiError(text.strip(), "", response.status_code)
    raise StorageApiError(
        str(body.get("message", "")),
        str(body.get("code") or body.get("error") or ""),
        str(body.get("statusCode") or response.status_code),
    )
