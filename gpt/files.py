"""Reading files of unknown origin."""

from pathlib import Path


def read_text(path: Path, max_bytes: int) -> str:
    """The content of a UTF-8 file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has more than `max_bytes`, or is not UTF-8.
    """
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)  # devices and files under /proc do not tell their size
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
