"""The page as the tests use it: a process that serves it, and visitors in a real browser."""

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
COMPILE_TIMEOUT_S = 60_000  # ms; a bound against hanging, not a claim about speed


class Visit:
    """One visitor, in a browser profile of their own; notes what must not happen."""

    def __init__(self, chromium, address, path="", **options):
        self.context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.set_default_timeout(COMPILE_TIMEOUT_S)
        self.page = self.context.new_page()
        self.faults = []
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else self.faults.append(r.url))
        self.page.goto(address + path)
        self.stands()

    def stands(self):
        """Wait until the real page has taken the place of the first sight."""
        self.page.wait_for_selector("#text .sheet")
        self.page.wait_for_selector("#first", state="hidden")

    def reload(self):
        """Load the page again. What the old one says of connections that this breaks off is no fault."""
        faults = list(self.faults)
        self.page.reload()
        self.faults[:] = faults
        self.stands()

    @property
    def text(self):
        return self.page.text_content("#text .written")

    @property
    def status(self):
        return self.page.text_content("#status p") or ""

    def until(self, condition, what):
        deadline = time.monotonic() + COMPILE_TIMEOUT_S / 1000
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}; status {self.status!r}, faults {self.faults}"
            self.page.wait_for_timeout(50)

    def done(self):
        """Wait for a text to be finished, and return it."""
        self.until(lambda: "characters per second" in self.status and self.page.is_disabled("#stop"), "the end of a text")
        return self.text

    def pick(self, model):
        """Choose a model, and wait until the page says what it is: then the prompt suits it as well."""
        before = self.page.inner_text("#about")
        self.page.click(f"#models input[value='{model}']")
        self.until(lambda: self.page.inner_text("#about") != before, "what the model is")

    def generate(self, prompt=None):
        if prompt is not None:
            self.page.fill("#prompt textarea", prompt)
        self.page.wait_for_timeout(500)  # the page takes in what was set a moment after it was
        # A bigram is done before anybody can look: wait for the old status to go, not for the one in between.
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
def served(folder=ROOT, env=os.environ):
    """`python app.py` in a folder, as a process of its own, at an address that the environment gives."""
    port = free_port()
    env = {**env, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    with subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=env, stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + COMPILE_TIMEOUT_S / 1000
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
