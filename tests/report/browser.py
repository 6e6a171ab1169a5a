"""A headless Chromium to look at pages with, driven over its debugging pipe.

The pipe speaks the DevTools protocol, JSON messages ended by a zero byte, on the descriptors 3 and
4 of the browser: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_PATIENCE = 60.0
# what a report page says of itself when its plots are drawn
_DRAWN = "document.documentElement?.dataset.ready === 'yes'"


def chromium() -> str | None:
    """The browser's program, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """A browser process with a profile of its own, closed at the end of the ``with`` block."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._write = _pipe()
        self._read, from_browser = _pipe()
        moved = f"os.dup2({to_browser}, 3); os.dup2({from_browser}, 4)"
        script = f"import os, sys; {moved}; os.execv(sys.argv[1], sys.argv[1:])"
        options = [*_FLAGS, f"--user-data-dir={profile}"]
        command = [sys.executable, "-c", script, program, *options]
        self._process = subprocess.Popen(
            command,
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(timeout=10)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer; events are kept meanwhile."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def open(
        self, path: Path, width: int, height: int, *, scheme: str = "light", ready: str = _DRAWN
    ) -> Tab:
        """A tab with a local page, drawn and at rest, in a window of that size."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, str(session))
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        tab.call("Emulation.setEmulatedMedia", features=features)
        tab.call("Page.navigate", url=path.resolve().as_uri())
        tab.wait(ready)
        return tab

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            received = os.read(self._read, 1 << 20) if ready else b""
            if not received:
                raise RuntimeError("the browser does not answer" if not ready else "it has ended")
            self._rest += received
        message, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(message))


def started(profile: Path) -> Iterator[Browser]:
    """A browser for a fixture; its tests are skipped where there is none."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium on this machine (looked for chromium, google-chrome)")
    with Browser(program, profile) as browser:
        yield browser


class Tab:
    """One page in the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol on this page."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + _PATIENCE
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{expression} has not become true in {_PATIENCE:g} s")
            time.sleep(0.05)

    def resize(self, width: int, height: int) -> None:
        """Give the window a size; a narrow one counts as a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def events(self, method: str) -> list[dict[str, Any]]:
        """What the page has told of one kind of event."""
        self.evaluate("1")  # an answer comes after the events before it
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] == method
        ]

    def complaints(self) -> list[str]:
        """Exceptions, console errors and warnings, and whatever the browser logged."""
        found = [str(event["exceptionDetails"]) for event in self.events("Runtime.exceptionThrown")]
        found += [
            str(event["args"])
            for event in self.events("Runtime.consoleAPICalled")
            if event["type"] in ("error", "warning", "assert")
        ]
        return found + [str(event["entry"]["text"]) for event in self.events("Log.entryAdded")]

    def requests(self) -> list[str]:
        """The addresses that the page asked for, data in the page itself excepted."""
        urls = [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A picture of the window, or of the whole page."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))


def _pipe() -> tuple[int, int]:
    """A pipe whose ends leave the descriptors 3 and 4 to the browser."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
