"""Text files as people have them: with or without a byte order mark, with line ends of any system, or no text at all."""

import codecs
import stat
from pathlib import Path

MAX_FILE_BYTES = 100_000_000  # of a text to train on; its tokens take a hundred times as much memory
MAX_TEXT_BYTES = 2_000_000  # of a text that is trained on in the page
SIGNATURES = {  # how files start that are mistaken for a text
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive or an office document",
    b"\x1f\x8b": "a compressed file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"{\\rtf": "a rich text document",
}
SAVE_AS_TEXT = "open it and save it as plain text (.txt, UTF-8)"


def read_text_file(path: Path) -> bytes:
    """The content of a regular file: a pipe or device may never end.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no regular file, or larger than `MAX_FILE_BYTES`.
    """
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(f"it is {'a folder' if stat.S_ISDIR(info.st_mode) else 'a pipe or a device'}; give a file")
    with open(path, "rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)  # files under /proc say that they are empty
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES:,} bytes; give a part of it")
    return content


def decode_text(content: bytes, errors: str = "strict") -> str:
    """Decode UTF-8 with or without a byte order mark, or UTF-16 with one; every line end becomes a newline.

    Args:
        content: The bytes of the file.
        errors: As of `bytes.decode`, for invalid UTF-8.

    Raises:
        ValueError: If it is something else. The message says what to do.
    """
    for start, kind in SIGNATURES.items():
        if content.startswith(start):
            raise ValueError(f"the file is {kind}, not a plain text; {SAVE_AS_TEXT}")
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16") if is_utf16 else content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        if b"\0" in content and not is_utf16:
            raise ValueError(f"the file is not a text but binary data; {SAVE_AS_TEXT}") from None
        name = "UTF-16" if is_utf16 else "UTF-8"
        raise ValueError(
            f"the file is not {name} text (byte {error.start} is invalid); open it with its encoding and save it as UTF-8"
        ) from None
    if "\0" in text:
        position = text.index("\0")
        raise ValueError(f"the file has a NUL character (at position {position:,}), so it is not a text; {SAVE_AS_TEXT}")
    return text.replace("\r\n", "\n").replace("\r", "\n")
