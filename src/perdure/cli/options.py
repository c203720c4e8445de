"""What many commands have in common: their options, and the parts that the settings make."""

from typing import Annotated

import typer

from perdure.middleware.persistence.wiring import Runtime, build
from perdure.settings_loader import load_settings

__all__ = ["Before", "Json", "User", "Yes", "runtime_of"]

User = Annotated[str | None, typer.Option("--user", help="Only this user's (the token's subject; `local` on stdio).")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable, everything, nothing shortened.")]
Before = Annotated[str | None, typer.Option(help="Continue after an earlier page: the `next` that it ended with.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def runtime_of(context: typer.Context) -> Runtime:
    """
    Raises:
        SettingsError: The settings cannot be used.
    """
    return build(load_settings(context.obj))
