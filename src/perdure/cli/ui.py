"""`perdure ui`: what is kept, as a page in a browser of this machine."""

import threading
import webbrowser
from typing import TYPE_CHECKING

import typer

from perdure.errors import PerdureError
from perdure.middleware.persistence.wiring import Runtime

if TYPE_CHECKING:
    from perdure.viewer.serving import Address

__all__ = ["show_page"]


def show_page(runtime: Runtime, *, port: int, opens: bool) -> None:
    """Until Ctrl-C.

    Raises:
        PerdureError: What it needs is not installed, or the port cannot be had, or nothing can be there to show.
    """
    try:
        from perdure.viewer import serve  # noqa: PLC0415 - it alone brings a web server
    except ImportError as error:
        raise PerdureError(
            f"`perdure ui` needs packages that are not installed ({error}).",
            remedy='install them with: pip install "perdure[ui]".',
        ) from error
    if runtime.settings.backend == "memory":
        raise PerdureError(
            "The backend `memory` keeps everything within the server's own process, where no other can look.",
            remedy="choose another backend in perdure.toml.",
        )

    def started(address: "Address") -> None:
        typer.echo(f"perdure ui: {address.printed}")
        typer.echo("Only this machine can open it, with this address. It changes nothing. Ctrl-C ends it.")
        if opens:  # Beside the server: some browsers are waited for, and would wait for it.
            threading.Thread(target=_open, args=(address.opened,), daemon=True).start()

    serve(runtime, port=port, started=started)


def _open(address: str) -> None:
    if not webbrowser.open(address):
        typer.echo("No browser could be started: open the address yourself.", err=True)
