"""JSON text in ASCII, without a space that says nothing: of values in their order, and sorted by name."""

import json
from collections.abc import Callable
from typing import Any

from perdure.middleware.persistence.turn import Json

__all__ = ["compact_json", "sorted_json"]


def _encoder(*, sort_keys: bool) -> Callable[[Json], str]:
    """`json.JSONEncoder(…).encode`, without what that makes anew for each text, several times in each turn.

    It is put together of the same parts, which Python does not promise to keep: where they are others, it is that.
    """
    public = json.JSONEncoder(ensure_ascii=True, sort_keys=sort_keys, separators=(",", ":"))
    parts: Any = json.encoder
    try:
        encode = parts.c_make_encoder(
            None, public.default, parts.encode_basestring_ascii, None, ":", ",", sort_keys, False, True
        )
        if "".join(encode(_SAMPLE, 0)) != public.encode(_SAMPLE):
            return public.encode
    except (AttributeError, TypeError, ValueError):
        return public.encode
    return lambda value: "".join(encode(value, 0))


_SAMPLE = {"b": [1, -0.0, 1e300, None, True, "\ud800\0é"], "a": {}, "": []}

compact_json = _encoder(sort_keys=False)
sorted_json = _encoder(sort_keys=True)
