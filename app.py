"""Launches the page: `python app.py`, then open http://127.0.0.1:7860. `python app.py --help` lists the options."""

import argparse
import os
import signal
import socket
import sys
import threading
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported: the page asks no other host

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # installed on every ZeroGPU Space, which needs a function for its GPU to start; before torch

    spaces.GPU(lambda: None)  # never called: models this small are quickest on the CPU

import gradio as gr
import torch

from gpt import CheckpointError
from ui import page
from ui.lessons import LessonError
from ui.memory import bound_allocator
from ui.model_registry import add_local_model
from ui.shutdown import shutdown
from ui.visits import visits

DEFAULT_PORT = 7860
EXIT_S = 9.5  # from SIGTERM to the end; `docker stop` kills what runs for 10 seconds


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; the environment gives the defaults."""
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description="Open the page in a browser at the address that is printed.",
        epilog="Environment: MODELS is a list of folders for --model, separated as in PATH; GRADIO_SERVER_PORT a port; "
        "GRADIO_SERVER_NAME the host name to listen on, 0.0.0.0 for every machine on the network.",
    )
    models = [folder for folder in os.environ.get("MODELS", "").split(os.pathsep) if folder]
    parser.add_argument(
        "--model", action="append", metavar="FOLDER", help="a trained model to offer as well, such as runs/mine (repeatable)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=os.environ.get("GRADIO_SERVER_PORT"),
        help=f"the port to listen on (default: {DEFAULT_PORT}, or the next free one)",
    )
    parsed = parser.parse_args(arguments)
    parsed.model = parsed.model or models
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        parser.error(f"argument --port: {parsed.port} is not a port; give a number from 1 to {2**16 - 1}")
    return parsed


def is_free(port: int) -> bool:
    """Whether the page can listen on a port."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_port(port: int | None) -> int | None:
    """The port for `launch`: `port`, which must be free, or None for the first free one."""
    if port is not None and not is_free(port):
        sys.exit(f"python app.py: port {port} is in use; stop what uses it, or choose another one with --port")
    if port is None and not is_free(DEFAULT_PORT):
        print(f"Port {DEFAULT_PORT} is in use, so the page takes the next free one:")
    return port


def end(*_: object) -> None:
    """End the page, as `docker stop` asks for: texts may finish, and the folders of the visits are deleted."""
    watchdog = threading.Timer(EXIT_S, os._exit, (0,))  # Python waits for all threads, of which one may wait for the Hub
    watchdog.daemon = True
    watchdog.start()
    shutdown.drain()
    visits.end_all()
    sys.exit()


bound_allocator()
# A second thread does not speed up a small model, and it would take a core from another visitor's.
torch.set_num_threads(1)

options = parse_arguments(sys.argv[1:] if __name__ == "__main__" else [])
try:
    for folder in options.model:
        add_local_model(folder)
    demo = page.build()
except (CheckpointError, LessonError) as error:
    sys.exit(f"python app.py: {error}")

LAUNCH: dict[str, Any] = {
    **page.launch_options(),
    "footer_links": ["api"],
    "run_history": False,  # nothing that a visitor does is stored, not even in their browser
    "max_file_size": 1,  # byte: nothing is uploaded through Gradio; texts to train on go to ui/training.py
    "max_threads": 64,  # for what the schedulers' threads do not do: links, models from the Hub, the tab Morph
    "ssr_mode": False,
}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    # `gradio app.py` runs this file again after each change, while the page keeps its port.
    demo.launch(**LAUNCH, server_port=choose_port(options.port) if gr.NO_RELOAD else options.port)
