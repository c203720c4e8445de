"""Progress that only ever rises, though two report it: a tool, and perdure on the files of its call."""

__all__ = ["RisingProgress"]


class RisingProgress:
    """Of one call (MCP specification, Progress).

    What comes before the tool's body lies below 0, and what comes after it above the tool's own last value.
    """

    def __init__(self) -> None:
        self._tools_last = -1.0
        self._told = -1.0

    def tool_told(self, progress: float) -> None:
        self._tools_last = self._told = max(self._tools_last, progress)

    def next(self, fraction: float) -> float:
        """What to tell when so much of a file is done, from 0 to 1."""
        # Of several files each begins anew: then only a little further.
        self._told = max(self._tools_last + 0.99 * fraction, self._told + 1e-6)
        return self._told
