"""The store, and file store, of a process whose settings cannot be used: it keeps nothing, and says why every time."""

from typing import NoReturn

from perdure.errors import PerdureError

__all__ = ["UnusableStore"]


class UnusableStore:
    blocking = False

    def __init__(self, reason: PerdureError, bucket: str) -> None:
        self.bucket = bucket
        self._reason = reason

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise self._reason

    begin = finish = renew = turns = conversations = file = files = _refuse
    search = fork = delete = purge = forget = statistics = _refuse
    put = read = holds = used_bytes = most_bytes = signed_url = remove = _refuse
    one_copy = True

    def close(self) -> None:
        pass
