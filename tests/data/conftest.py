"""A cache of the test's own, and a web server on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; no test reads or writes the user's."""
    # here: older versions of jaxtyping check no package that a conftest has imported before them
    from grokscope.data import files

    folder = tmp_path / "cache"
    monkeypatch.setattr(files, "cache_folder", lambda: folder)
    monkeypatch.delenv("GROKSCOPE_DATA", raising=False)
    return folder


class Server(ThreadingHTTPServer):
    """Serves ``pages``: path -> the bytes, and how many of them to send before going wrong."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, tuple[bytes, int | None]] = {}
        self.requests: list[str] = []
        self.stalled, self.release = threading.Event(), threading.Event()

    def serve(self, path: str, data: bytes, stop_after: int | None = None) -> str:
        """The address of ``data``; with ``stop_after`` the connection breaks after those bytes."""
        self.pages[path] = (data, stop_after)
        return self.address(path)

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.path not in self.server.pages:
            self.send_error(404)
            return
        data, stop_after = self.server.pages[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:stop_after])
        if self.path.startswith("/stall"):
            self.wfile.flush()
            self.server.stalled.set()
            self.server.release.wait(60)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()
