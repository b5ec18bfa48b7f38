"""Open the page: `python app.py`, then http://127.0.0.1:7860, or where GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say."""

import os
import sys
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported: the page asks no other host

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # there on every ZeroGPU Space, which starts nothing without a function for its GPU; before torch

    spaces.GPU(lambda: None)  # never called: models this small are quickest on the CPU

import torch

from gpt import CheckpointError
from ui.page import build, server
from ui.theme import CSS, theme

# A small model gains nothing from a second thread, and visitors would take the cores from each other.
torch.set_num_threads(1)

try:
    demo = build()
except CheckpointError as error:
    sys.exit(f"python app.py: {error}")

LAUNCH: dict[str, Any] = {
    "theme": theme(),
    "css": CSS,
    "footer_links": ["api"],
    "run_history": False,  # nothing of a visitor is kept, in their browser either
    "max_file_size": 1,  # byte: there is nothing to upload here
    "state_session_capacity": 64,  # texts that can be continued, about 3 MB each; a forgotten one is written again
    "max_threads": 64,  # for what is not written at a desk: links, models from the Hub, the tab Morph
    "ssr_mode": False,
    "app_kwargs": server(),
}

if __name__ == "__main__":
    demo.launch(**LAUNCH)
