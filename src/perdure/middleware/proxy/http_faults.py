"""Why a server behind HTTP gave no answer, in words."""

import ssl
from collections.abc import Iterator

import httpx

__all__ = ["HttpFault", "of_error", "of_redirect", "of_status", "shown"]


class HttpFault(Exception):
    """An HTTP request came to nothing."""

    def __init__(self, what: str, remedy: str, *, status: int | None = None) -> None:
        super().__init__(f"{what} Remedy: {remedy}")
        self.what = what
        self.remedy = remedy
        self.status = status


def shown(url: httpx.URL) -> str:
    """Without what may be secret: the name, the password and the query."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def of_status(response: httpx.Response, *, in_session: bool) -> HttpFault:
    where, status = shown(response.request.url), response.status_code
    match status:
        case 401:
            what = f"{where} wants to know who is asking (HTTP 401)."
            remedy = "give it with --header 'Authorization: Bearer …'; a token that was right may have expired."
        case 403:
            what = f"{where} does not allow this (HTTP 403)."
            remedy = "ask whoever runs the server to allow it for this token, or give another with --header."
        case 404 if in_session:
            what = f"{where} has ended this session, perhaps by a restart (HTTP 404)."
            remedy = "start the session anew; what was kept of its tools is still there."
        case 404:
            what = f"There is no MCP server at {where} (HTTP 404)."
            remedy = "check the path in --url; many servers have theirs under /mcp."
        case 429:
            what = f"{where} has been asked too often (HTTP 429)."
            remedy = "wait, and try again."
        case _ if status >= 500:
            what = f"{where} failed (HTTP {status})."
            remedy = "try again later, or look at the server's own log."
        case _:
            what = f"{where} did not answer as an MCP server does (HTTP {status})."
            remedy = "check the address in --url: it must be that of a streamable HTTP server."
    return HttpFault(what, remedy, status=status)


def of_redirect(response: httpx.Response, target: httpx.URL) -> HttpFault:
    return HttpFault(
        f"{shown(response.request.url)} redirects to {shown(target)}, which is not followed:"
        " what is meant for one server must not go to another.",
        "if that is the server, give its address to --url.",
        status=response.status_code,
    )


def of_error(error: Exception, url: httpx.URL) -> HttpFault:
    where = shown(url)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return HttpFault(
                f"The certificate of {where} cannot be verified: {cause.verify_message}.",
                "if an authority of your own signed it, name that one's file in SSL_CERT_FILE.",
            )
        if isinstance(cause, ssl.SSLError):
            return HttpFault(
                f"No TLS connection to {where}: {cause.reason or cause}.", "check whether it speaks https on that port."
            )
    match error:
        case httpx.ConnectTimeout():
            return HttpFault(f"{where} did not accept a connection in time.", "check the address and the network.")
        case httpx.ConnectError():
            return HttpFault(f"{where} cannot be reached: {error}.", "check whether it runs, and the address in --url.")
        case _:
            return HttpFault(
                f"The connection to {where} broke off before the answer: {type(error).__name__}.",
                "try again; whether the server did what it was asked is not known.",
            )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
