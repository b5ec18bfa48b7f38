"""What a visitor sees first: a headline and a text, in the page itself, while its scripts are still on their way.

Gradio draws everything by script, megabytes of it; on a phone in a bus that is seconds of a turning wheel.
"""

from html import escape
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.session import LINK
from ui.theme import BOOK, FONT, INK, LINE, PAPER, SHEET, SOFT

# Covers the page until the last part of the real one stands; then `:has` takes it away, without a script.
STYLE = f"""
#first {{ --paper: {PAPER[0]}; --sheet: {SHEET[0]}; --ink: {INK[0]}; --soft: {SOFT[0]}; --line: {LINE[0]};
  position: fixed; inset: 0; z-index: 999; overflow: auto; background: var(--paper); color: var(--ink);
  font: 16px/1.5 {", ".join(FONT)}; }}
@media (prefers-color-scheme: dark) {{
  #first {{ --paper: {PAPER[1]}; --sheet: {SHEET[1]}; --ink: {INK[1]}; --soft: {SOFT[1]}; --line: {LINE[1]}; }} }}
body:has(#copy-python) #first {{ display: none; }}
#first > div {{ max-width: 1180px; box-sizing: border-box; margin: 0 auto; padding: clamp(14px, 3vw, 32px); }}
#first h1 {{ font-size: clamp(1.4rem, 3vw, 1.7rem); letter-spacing: -0.01em; margin: 0 0 6px; }}
#first p {{ font-size: 1.05rem; margin: 0; max-width: 46em; color: var(--soft); }}
#first pre {{ font: 1.16rem/1.62 {BOOK}; white-space: pre-wrap; overflow-wrap: anywhere; padding: 26px 30px; margin: 64px 0 0;
  border: 1px solid var(--line); border-radius: 10px; background: var(--sheet); }}
#first b {{ font-weight: 400; color: var(--soft); }}
@media (min-width: 761px) {{ #first pre {{ margin-left: calc((100% - 44px) / 3 + 44px); }} }}
"""


class SplashMiddleware:
    """ASGI middleware that puts the headline and a text into the HTML of the page. Whoever comes by a link to another
    text sees the headline alone."""

    def __init__(self, app: ASGIApp, title: str, headline: str, prompt: str, text: str) -> None:
        self.app = app
        self.head = f"<style>{STYLE}</style><div id='first'><div><h1>{escape(title)}</h1><p>{escape(headline)}</p>"
        self.text = f"<pre><b>{escape(prompt)}</b>{escape(text)}</pre>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = b""

        async def change(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            first = (
                self.head
                + ("" if parse_qs(scope["query_string"].decode("latin-1")).keys() & LINK.keys() else self.text)
                + "</div></div>"
            )
            before, end, after = body.rpartition(b"</body>")
            changed = before + first.encode() + end + after
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            await send({**start, "headers": [*headers, (b"content-length", str(len(changed)).encode())]})
            await send({"type": "http.response.body", "body": changed})

        await self.app(scope, receive, change)
