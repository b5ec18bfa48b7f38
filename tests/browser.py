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
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = ROOT / "runs" / "screenshots"
TIMEOUT_MS = 60_000  # a bound against hanging, not a claim about speed


class Visit:
    """A visitor with a browser profile of their own. `faults` has console errors and requests to other hosts.

    The browser also logs the status 422 of an answer that is a sentence for the visitor, which is no fault.

    They prefer reduced motion, so that texts appear at pace "fast"; give reduced_motion="no-preference" to watch.
    """

    def __init__(self, chromium, address, path="", **options):
        defaults = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
        self.context = chromium.new_context(**{**defaults, **options})
        self.context.set_default_timeout(TIMEOUT_MS)
        self.page = self.context.new_page()
        self.faults = []
        self.requests = []  # paths of the page's own endpoints
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" and "422" not in m.text else None)
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else self.faults.append(r.url))
        self.page.on("request", lambda r: self.requests.append(r.url.partition("/page/")[2]))
        self.page.goto(address + path)
        self.wait_until_loaded()

    def wait_until_loaded(self):
        """Wait until the page has replaced the splash and shows a text."""
        self.page.wait_for_selector("#splash", state="hidden")
        self.page.wait_for_selector("#text .token", state="attached")

    def reload(self):
        """Load the page again. Errors about the connections of the old one are no faults."""
        faults = list(self.faults)
        self.page.reload()
        self.faults[:] = faults
        self.wait_until_loaded()

    @property
    def text(self):
        """The generated text, without the prompt."""
        return self.page.evaluate("[...document.querySelectorAll('#text .token')].map((token) => token.textContent).join('')")

    @property
    def length(self):
        """The number of tokens on the screen."""
        return self.page.locator("#text .token").count()

    @property
    def prompt(self):
        """The prompt before the text."""
        return self.page.text_content("#text .prompt")

    @property
    def caption(self):
        return self.page.text_content("#text .caption")

    @property
    def seed(self):
        """The seed of the text."""
        return int(self.caption.split("seed ")[1].split(" ")[0])

    @property
    def status(self):
        return (self.page.text_content("#text .status") or "") if self.page.locator("#text .status").count() else ""

    @property
    def is_writing(self):
        return self.page.locator("#text .running").count() > 0

    def until(self, condition, what):
        deadline = time.monotonic() + TIMEOUT_MS / 1000
        while not condition():
            assert time.monotonic() < deadline, f"timeout: {what}; status {self.status!r}, faults {self.faults}"
            self.page.wait_for_timeout(50)

    def wait_for_value(self, selector, value):
        """Wait until a field has a value: Gradio changes its fields a moment after a script asked for it."""
        self.until(lambda: self.page.input_value(selector) == value, f"{value!r} in {selector}")

    def wait_for_text(self):
        """Wait until a text is finished, and return it."""
        self.until(lambda: self.length > 0 and not self.is_writing, "the end of a text")
        return self.text

    def pick(self, model):
        """Choose a model."""
        self.page.evaluate(f"{self._module('picker')}.then((picker) => picker.choose({model!r}).then(() => {{}}))")

    def set_pace(self, pace):
        self.page.check(f"#text input[name=pace][value={pace}]")

    def set_number(self, name, value):
        """Type a number into a control, such as "temperature"."""
        self.page.fill(f"#{name} input[type=number]", str(value))
        self.page.press(f"#{name} input[type=number]", "Tab")

    def generate(self, prompt=None):
        """Press Generate, and wait until the new text is on the screen."""
        if prompt is not None:
            self.page.fill("#prompt textarea", prompt)
        self.wait_for_new_text(lambda: self.page.click("#generate"))

    def wait_for_new_text(self, action):
        """Do something that begins a text, and wait until the list of texts has it."""
        texts = "#text .tree button"
        before = self.page.locator(texts).count()
        action()
        self.until(lambda: self.page.locator(texts).count() > before, "a new text")

    def open_tab(self, name):
        """Open a tab by the name that links use."""
        self.page.evaluate(f"{self._module('tabs')}.then((tabs) => tabs.openTab({name!r}))")
        self.until(lambda: self.page.get_attribute(f"#tab-{name}-button", "aria-selected") == "true", f"the tab {name}")

    def violations(self):
        """What axe-core finds on the page."""
        assert AXE.is_file(), "axe-core is not installed; run npm ci"
        self.page.add_script_tag(path=AXE)
        self.page.evaluate("scrollTo(0, 0)")
        found = "axe.run().then((result) => result.violations.map((v) => [v.id, ...v.nodes.map((node) => node.html)]))"
        return self.page.evaluate(found)

    def screenshot(self, name):
        """Keep a picture of the page as an artifact of the test run, to be looked at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def query(self):
        """The link of the text."""
        return self.page.evaluate(f"{self._module('write')}.then((write) => write.currentText().query)")

    @staticmethod
    def _module(name):
        return f"import(new URL('page/static/js/{name}.js', document.baseURI))"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def served(folder=ROOT, env=os.environ, arguments=(), port=None):
    """`python app.py` in a folder, as a process of its own; yields its address."""
    with page_process(folder, env, arguments, port) as (address, _):
        yield address


@contextmanager
def page_process(folder=ROOT, env=os.environ, arguments=(), port=None):
    """Like `served`; yields the address and the process."""
    port = port or free_port()
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
            yield f"http://127.0.0.1:{port}", server
        finally:
            server.terminate()
