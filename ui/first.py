"""What a visitor sees first: a headline and a text, in the page itself, while its scripts are still on their way.

Gradio draws everything by script, megabytes of it; on a phone in a bus that is seconds of a turning wheel.
"""

from html import escape

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Covers the page until the real sheet stands; then `:has` takes it away, without a script.
STYLE = """
#first { position: fixed; inset: 0; z-index: 999; overflow: auto; background: #fbfaf8; color: #292420;
  font: 1.05rem/1.5 ui-sans-serif, system-ui, sans-serif; }
body:has(#text .sheet) #first { display: none; }
#first > div { max-width: 1180px; box-sizing: border-box; margin: 0 auto; padding: clamp(14px, 3vw, 32px); }
#first h1 { font-size: clamp(1.4rem, 3vw, 1.7rem); line-height: 1.5; letter-spacing: -0.01em; margin: 0 0 6px; }
#first p { margin: 0; max-width: 46em; color: #6b635b; }
#first pre { font: 1.16rem/1.62 Palatino, 'DejaVu Serif', Georgia, serif; white-space: pre-wrap; overflow-wrap: anywhere;
  margin: 28px 0; max-width: 40em; } #first b { font-weight: 400; color: #78716c; }
@media (prefers-color-scheme: dark) {
  #first { background: #171513; color: #f2eee9; } #first p { color: #b5ada4; } #first b { color: #a8a29e; } }
"""


class FirstSight:
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
            first = self.head + ("" if scope["query_string"] else self.text) + "</div></div>"
            before, end, after = body.rpartition(b"</body>")
            changed = before + first.encode() + end + after
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            await send({**start, "headers": [*headers, (b"content-length", str(len(changed)).encode())]})
            await send({"type": "http.response.body", "body": changed})

        await self.app(scope, receive, change)
