"""Serves static content before Gradio's JavaScript has loaded: the headline and a first text, in the page's own HTML."""

from html import escape
from string import Template
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.assets import read
from ui.session import LinkArguments


class SplashMiddleware:
    """ASGI middleware that adds `splash.html` to the page; without the text for visitors who follow a link to another one.

    Args:
        app: The application behind it.
        title: The page's title.
        headline: The sentence below it.
        prompt: The prompt of the first text.
        text: The text, without the prompt.
    """

    def __init__(self, app: ASGIApp, title: str, headline: str, prompt: str, text: str) -> None:
        self.app = app
        template = Template(f"<style>{read('colors.css')}{read('splash.css')}</style>{read('splash.html')}")
        values = {"title": escape(title), "headline": escape(headline)}
        self.with_text = template.substitute(values, text=f"<b>{escape(prompt)}</b>{escape(text)}").encode()
        self.without_text = template.substitute(values, text="").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; the HTML of the page itself gets the splash at its end."""
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        is_link = bool(parse_qs(scope["query_string"].decode("latin-1")).keys() & LinkArguments.model_fields.keys())
        start: Message = {}
        body = b""

        async def add_splash(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            before, end, after = body.rpartition(b"</body>")
            changed = before + (self.without_text if is_link else self.with_text) + end + after
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            await send({**start, "headers": [*headers, (b"content-length", str(len(changed)).encode())]})
            await send({"type": "http.response.body", "body": changed})

        await self.app(scope, receive, add_splash)
