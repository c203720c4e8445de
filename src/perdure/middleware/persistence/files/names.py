"""What a kept file is called: in its key, and on a local disk."""

import hashlib
import re

__all__ = ["local_name", "safe_name", "tenant_of"]

# Compiled when a file is named first.
_UNSAFE = r"[^A-Za-z0-9._-]+"
_SAFE_TENANT = r"(?!h-)[A-Za-z0-9_-]{1,64}"
_LONGEST_SAFE_NAME = 80


def tenant_of(principal: str) -> str:
    """The first part of a principal's keys: the principal itself, or its hash where it has other characters."""
    if re.fullmatch(_SAFE_TENANT, principal):
        return principal
    return "h-" + hashlib.sha256(principal.encode("utf-8", "surrogatepass")).hexdigest()


def safe_name(name: str) -> str:
    """What of a file's name can stand in a key everywhere: ASCII letters, digits and `._-`, with its ending."""
    stem, dot, ending = re.sub(_UNSAFE, "_", name).lstrip(".").rpartition(".")
    if not dot or len(ending) > 20:
        return (re.sub(_UNSAFE, "_", name).lstrip(".") or "file")[:_LONGEST_SAFE_NAME]
    return f"{stem[: _LONGEST_SAFE_NAME - len(ending) - 1] or 'file'}.{ending}"


def local_name(name: str) -> str:
    """`name` for a local file: the true one, unless the file system could not hold it."""
    usable = name.replace("/", "_").replace("\0", "_").lstrip(".") or "file"
    return usable if len(usable.encode("utf-8", "surrogatepass")) <= 200 else safe_name(usable)
