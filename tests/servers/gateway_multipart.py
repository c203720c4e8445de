"""The form that storage3 and supabase-js upload with, read as it arrives: its fields come before its one file."""

from collections.abc import Iterator

from python_multipart.multipart import MultipartParser, parse_options_header
from servers import gateway_errors as errors
from servers.gateway_http import Request


class Form:
    """`fields` and `media_type` are there when `open` returns; the bytes of the file follow in `pieces`."""

    def __init__(self, request: Request) -> None:
        _, options = parse_options_header(request.headers["content-type"])
        boundary = options.get(b"boundary")
        if not boundary:
            raise errors.no_content("Multipart: Boundary not found")
        self.fields: dict[str, str] = {}
        self.media_type = ""
        self._source = request.pieces()
        self._ready: list[bytes] = []
        self._in_file = False
        self._names: dict[bytes, bytes] = {}
        self._header: list[bytes] = [b"", b""]
        self._value = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": lambda data, start, end: self._heard(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._heard(1, data[start:end]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": lambda data, start, end: self._data(data[start:end]),
                "on_part_end": self._part_ends,
            },
        )

    def open(self) -> "Form":
        """
        Raises:
            StorageError: There is no file in the form.
        """
        for piece in self._source:
            self._parser.write(piece)
            if self.media_type:
                return self
        raise errors.no_content()

    def pieces(self) -> Iterator[bytes]:
        """The file."""
        yield from self._taken()
        for piece in self._source:
            self._parser.write(piece)
            yield from self._taken()

    def _taken(self) -> list[bytes]:
        ready, self._ready = self._ready, []
        return ready

    def _part_begins(self) -> None:
        self._names, self._value, self._in_file = {}, b"", False

    def _heard(self, which: int, data: bytes) -> None:
        self._header[which] += data

    def _header_ends(self) -> None:
        name, value = self._header
        self._names[name.lower()] = value
        self._header = [b"", b""]

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._names.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode()
        if b"filename" in options:
            self._in_file = True
            kind, _ = parse_options_header(self._names.get(b"content-type", b"application/octet-stream"))
            self.media_type = kind.decode()  # without its parameters: so does busboy

    def _data(self, data: bytes) -> None:
        if self._in_file:
            self._ready.append(data)
        else:
            self._value += data

    def _part_ends(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._value.decode()
