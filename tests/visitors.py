"""Visitors who train models, without a browser: the endpoints on a real server, and clients that can leave at any moment."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from ui import routes
from ui.visits import HEADER, VisitMiddleware

TIMEOUT_S = 60
CHOICES = {"kind": "gpt", "size": "small", "tokenizer": "char", "is_lines": False, "dropout": None, "seconds": 15}
TEXT = "It was a bright cold day in April, and the clocks were striking thirteen.\n" * 5


@contextmanager
def serve_endpoints():
    """The page's endpoints, without Gradio; yields their address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = Starlette(routes=routes.routes(), middleware=[Middleware(VisitMiddleware)])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        wait_until(lambda: server.started, "the start of the server")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def wait_until(condition, what, seconds=TIMEOUT_S):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timeout: {what}"
        time.sleep(0.01)


class Visitor:
    """A visitor with a browser of their own."""

    def __init__(self, address):
        self.client = httpx.Client(base_url=address, timeout=TIMEOUT_S, trust_env=False)

    def close(self):
        self.client.close()

    def get(self, path):
        return self.client.get(f"/page/{path}")

    def post(self, path, body):
        return self.client.post(f"/page/{path}", json=body)

    def upload(self, text, name="my-text.txt"):
        """Upload a text; returns the report."""
        content = text if isinstance(text, bytes) else text.encode()
        answer = self.client.post("/page/train/text", params={"name": name}, content=content)
        report = answer.json()
        if answer.is_success:
            self.client.headers[HEADER] = report["visit"]
        return report

    @contextmanager
    def training(self, **choices):
        """The events of a training, which ends when the context does."""
        with self.client.stream("POST", "/page/train/run", json={**CHOICES, **choices}) as response:
            yield map(json.loads, response.iter_lines())

    def train(self, text=TEXT, **choices):
        """Upload a text, and train; returns the last event."""
        self.upload(text)
        with self.training(**choices) as events:
            *_, last = events
        return last

    def model_ids(self):
        """The ids of the models of this visit."""
        return [model["id"] for model in self.get("models").json()["models"] if model["is_own"]]
