"""The process in which `ui/isolated_tokenizer.py` encodes a text: [tokenizer.json, text] on stdin, [ids, offsets] on stdout."""

import json
import sys
from contextlib import suppress

import tokenizers

MAX_MEMORY = 2**31  # bytes


def main() -> None:
    """Encode one text."""
    with suppress(ImportError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    content, text = json.load(sys.stdin)
    encoding = tokenizers.Tokenizer.from_str(content).encode(text, add_special_tokens=False)
    json.dump([encoding.ids, encoding.offsets], sys.stdout)


if __name__ == "__main__":
    main()
