"""Graceful shutdown: the page takes no new texts, those that grow have some seconds to finish, and the rest end in a sentence."""

import time

DRAIN_S = 5.0  # for texts to finish; `docker stop` kills what runs for 10 seconds
FAREWELL_S = 3.0  # for readers to take notice; with many of them, they are updated every 2.6 seconds
FLUSH_S = 0.3  # for the last lines to be sent
RESTARTING = "The page is being restarted. Please reload it in a minute; the link of your text shows it again."


class Shutdown:
    """Whether the page is about to end, and who still reads a text.

    The page's event loop counts the readers; the main thread waits for them.

    Attributes:
        has_begun: Whether new texts are refused.
        is_due: Whether texts that grow must end.
        readers: Number of open streams of text.
    """

    def __init__(self) -> None:
        self.has_begun = self.is_due = False
        self.readers = 0

    def check(self) -> None:
        """Raise ValueError, in a sentence for the visitor, if nothing new may begin."""
        if self.has_begun:
            raise ValueError(RESTARTING)

    def drain(self) -> None:
        """Refuse new texts, and return when no text grows any more, after 8.3 seconds at the latest."""
        self.has_begun = True
        self._wait(DRAIN_S)
        self.is_due = True
        self._wait(FAREWELL_S)
        time.sleep(FLUSH_S)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.readers and time.monotonic() < deadline:
            time.sleep(0.05)


shutdown = Shutdown()
