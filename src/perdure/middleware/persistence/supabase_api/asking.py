"""Asks within one deadline, and again where that may help: whatever is asked here may be asked twice."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from perdure.errors import PerdureError
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.supabase_api.deadline import last_reply, within
from perdure.middleware.persistence.supabase_api.faults import Treatment, sorted_out

__all__ = ["asked"]

T = TypeVar("T")

_ATTEMPTS = 5
_FIRST_PAUSE = 0.1

_spread = random.Random()  # noqa: S311 - spreads load; the module's own would change what an application has seeded


def asked(api: SupabaseApi, work: Callable[[], T], *, deadline: float, again: bool = True) -> T:
    """What `work`, which makes requests, returned by `deadline` (on `time.monotonic()`). Once only, unless `again`.

    Raises:
        StoreError: As the table in `faults` sorts it.
    """
    pause = _FIRST_PAUSE
    for attempt in range(1, _ATTEMPTS + 1):
        with within(deadline):
            try:
                return work()
            except PerdureError:
                raise
            except Exception as error:
                fault = sorted_out(error, last_reply(), api.where)
                if fault is None:
                    raise
                wait = max(pause * _spread.uniform(0.5, 1.0), fault.retry_after or 0.0)
                left = deadline - time.monotonic()
                if not again or fault.treatment is not Treatment.RETRY or attempt == _ATTEMPTS or wait >= left:
                    raise fault.error from error
        time.sleep(wait)
        pause *= 2
    raise AssertionError("the last attempt returns or raises")
