"""The page as the tests use it: a process that serves it, and visitors with a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
TIMEOUT_MS = 60_000  # a bound against hanging, not a claim about speed


class Visit:
    """A visitor with a browser profile of their own. `faults` has console errors and requests to other hosts."""

    def __init__(self, chromium, address, path="", **options):
        self.context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.set_default_timeout(TIMEOUT_MS)
        self.page = self.context.new_page()
        self.faults = []
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else self.faults.append(r.url))
        self.page.goto(address + path)
        self.wait_until_loaded()

    def wait_until_loaded(self):
        """Wait until the page has replaced the splash."""
        self.page.wait_for_selector("#text .output")
        self.page.wait_for_selector("#splash", state="hidden")

    def reload(self):
        """Load the page again. Errors about the connections of the old one are no faults."""
        faults = list(self.faults)
        self.page.reload()
        self.faults[:] = faults
        self.wait_until_loaded()

    @property
    def text(self):
        return self.page.text_content("#text .generated")

    @property
    def status(self):
        return self.page.text_content("#status p") or ""

    def until(self, condition, what):
        deadline = time.monotonic() + TIMEOUT_MS / 1000
        while not condition():
            assert time.monotonic() < deadline, f"timeout: {what}; status {self.status!r}, faults {self.faults}"
            self.page.wait_for_timeout(50)

    def wait_for_text(self):
        """Wait until a text is finished, and return it."""
        self.until(lambda: "characters per second" in self.status and self.page.is_disabled("#stop"), "the end of a text")
        return self.text

    def pick(self, model):
        """Choose a model, and wait until the page describes it: then the prompt suits it as well."""
        before = self.page.inner_text("#about")
        self.page.click(f"#models input[value='{model}']")
        self.until(lambda: self.page.inner_text("#about") != before, "the description of the model")

    def generate(self, prompt=None):
        if prompt is not None:
            self.page.fill("#prompt textarea", prompt)
        self.page.wait_for_timeout(500)  # the page reads its controls a moment after they change
        # A bigram is done at once: wait until the old status is gone, not for the one in between.
        self.page.eval_on_selector("#status p", "e => e.dataset.old = 1")
        self.page.click("#generate")
        self.until(lambda: self.page.locator("#status p[data-old]").count() == 0, "the first characters")

    def query(self):
        return self.page.input_value("#query textarea, #query input")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def served(folder=ROOT, env=os.environ, arguments=()):
    """`python app.py` in a folder, as a process of its own; yields its address."""
    port = free_port()
    env = {**env, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    command = [sys.executable, "app.py", *arguments]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + TIMEOUT_MS / 1000
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, "the page did not open"
                    assert server.poll() is None
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
