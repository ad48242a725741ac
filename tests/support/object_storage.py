"""Object storage for tests: a file system with faults, and a proxy with faults before an S3 server."""

import errno
import http.client
import threading
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from medvlad._util import object_storage
from medvlad.store.folder import ObjectFolder

#: Stands in environment variables and URLs. No output may hold it.
SECRET = "pl4nted/Secret+key"


def no_waits(monkeypatch):
    """Try again at once."""
    monkeypatch.setattr(object_storage, "WAITS", (0.0,) * 5)
    monkeypatch.setattr(ObjectFolder, "waits", (0.0,) * 5)


class FaultyFilesystem:
    """A file system of fsspec that fails as it is told.

    Attributes
    ----------
    faults : deque of (str, callable)
        Name of a method, and what happens instead at its next call: a function of the real method, the path
        and the other arguments.
    calls : list of (str, str)
        Name of the method and path of each call.
    stale : list of callable
        Functions from a listing to what is returned in its place, one a call. The last one stays.
    """

    METHODS = ("cat_file", "pipe_file", "ls", "info", "rm_file")

    def __init__(self, real):
        self._real = real
        self.faults = deque()
        self.calls = []
        self.stale = []

    def __getattr__(self, name):
        real = getattr(self._real, name)
        if name not in self.METHODS:
            return real

        def call(path, *args, **kwargs):
            self.calls.append((name, path))
            if self.faults and self.faults[0][0] == name:
                return self.faults.popleft()[1](real, path, *args, **kwargs)
            found = real(path, *args, **kwargs)
            if name == "ls" and self.stale:
                change = self.stale[0] if len(self.stale) == 1 else self.stale.pop(0)
                found = change(found)
            return found

        return call


@contextmanager
def faulty(scheme="memory"):
    """Yield a FaultyFilesystem that stands in place of the real one."""
    system = FaultyFilesystem(object_storage._filesystem(scheme, 0))
    real = object_storage._filesystem
    object_storage._filesystem = lambda *_: system
    try:
        yield system
    finally:
        object_storage._filesystem = real


def busy(real, path, *args, **kwargs):
    """Answer as S3 does if there are too many requests."""
    raise OSError(errno.EBUSY, f"Please reduce your request rate (503) ?X-Amz-Signature={SECRET}")


def slow(real, path, *args, **kwargs):
    raise TimeoutError(f"no answer from https://key:{SECRET}@host/{path}")


def cut_read(real, path, *args, **kwargs):
    return real(path, *args, **kwargs)[:-1]


def cut_put(real, path, value, **kwargs):
    """Write half of the content and fail."""
    real(path, value[: len(value) // 2])
    raise ConnectionResetError("the connection was closed")


def silent_cut_put(real, path, value, **kwargs):
    """Write half of the content and say nothing."""
    real(path, value[: len(value) // 2])


def put_without_answer(real, path, value, **kwargs):
    """Write the content, and lose the answer."""
    real(path, value, **kwargs)
    raise ConnectionResetError("the connection was closed")


class FaultyProxy:
    """A proxy in front of an S3 server on loopback.

    Attributes
    ----------
    url : str
    faults : deque of (str, str)
        Method of HTTP, and what happens to its next request: "503", "slow" (3 seconds), "cut" (half of the
        answer is sent), "lost" (the request is done, and no answer is sent) or "refused" (half of the request
        is read, and nothing is done).
    """

    def __init__(self, server):
        proxy = self
        self.faults = deque()
        self.n_requests = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self):
                length = int(self.headers.get("Content-Length") or 0)
                fault = ""
                if proxy.faults and proxy.faults[0][0] == self.command:
                    fault = proxy.faults.popleft()[1]
                proxy.n_requests += 1
                body = self.rfile.read(length // 2 if fault == "refused" else length)
                if fault == "refused":
                    self.close_connection = True
                    return
                if fault == "503":
                    self.answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
                    return
                if fault == "slow":
                    time.sleep(3)
                there = http.client.HTTPConnection(urlsplit(server).netloc)
                there.request(self.command, self.path, body, dict(self.headers))
                answer = there.getresponse()
                content = answer.read()
                headers = [(k, v) for k, v in answer.getheaders() if k.lower() != "transfer-encoding"]
                if fault == "lost":
                    self.close_connection = True
                    return
                self.answer(answer.status, headers, content, cut=fault == "cut")

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request

            def answer(self, status, headers, content, *, cut=False):
                self.send_response_only(status)
                if not any(name.lower() == "content-length" for name, _ in headers):
                    headers = [*headers, ("Content-Length", str(len(content)))]
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self.close_connection = True

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
