"""The one file of a ``multipart/form-data`` body, as ``curl -F file=@photo.jpg`` sends it (RFC 7578).

A form of one file needs no library: the bytes between two delimiters. The body is in memory already, and bounded.
"""

from __future__ import annotations

from email.message import Message

from zoo.transforms.unreadable import UnreadableImage

FORM = "multipart/form-data"
_MAX_PARTS = 16
_MAX_HEAD = 8192  # bytes of a part's headers
_MAX_BOUNDARY = 70  # characters, of RFC 2046


def file_of(body: bytes, content_type: str) -> bytes:
    """Return the file in a form, or the body itself if it is no form.

    Raises:
        UnreadableImage: the form is damaged, or has no file or several.
    """
    header = Message()
    header["content-type"] = content_type
    if header.get_content_type() != FORM:
        return body
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= _MAX_BOUNDARY or not boundary.isascii():
        raise UnreadableImage("corrupt", "a form without a boundary")
    files = [content for name, content in _parts(b"\r\n" + body, b"\r\n--" + boundary.encode()) if name is not None]
    if len(files) != 1:
        raise UnreadableImage("unsupported", f"a form with {len(files)} files: send one, as with curl -F file=@x.jpg")
    return files[0]


def _parts(body: bytes, delimiter: bytes) -> list[tuple[str | None, bytes]]:
    """Return the file name, ``None`` where it is no file, and the content of each part."""
    found: list[tuple[str | None, bytes]] = []
    at = body.find(delimiter)
    while at >= 0 and len(found) < _MAX_PARTS:
        start = at + len(delimiter)
        if body.startswith(b"--", start):  # the last delimiter
            return found
        # Headers end at an empty line; the content ends before the next delimiter.
        end, at = body.find(b"\r\n\r\n", start, start + _MAX_HEAD), body.find(delimiter, start)
        if end < 0 or at < end:
            break
        found.append((_file_name(body[start:end]), body[end + 4 : at]))
    raise UnreadableImage("truncated", "a form without its end, or with too many parts")


def _file_name(head: bytes) -> str | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.decode("latin-1").partition(":")
        if name.strip().lower() == "content-disposition":
            header = Message()
            header["content-disposition"] = value.strip()
            return header.get_filename()
    return None
