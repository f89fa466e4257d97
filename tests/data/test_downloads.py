"""Downloads from a real server on this machine that lies about length, sends too much, or takes its time."""

import socketserver
import threading
import time

import pytest

from crysjax.data.readers import downloads

MOST, SECONDS = 10_000, 1.5


class Handler(socketserver.StreamRequestHandler):
    """The path names the mistake."""

    def handle(self):
        name = self.rfile.readline().split()[1].decode().strip("/")
        while self.rfile.readline().strip():
            pass
        head, say = "HTTP/1.1 200 OK\r\n", self.wfile.write
        try:
            if name == "good":
                say(f"{head}Content-Length: 5000\r\n\r\n".encode() + b"x" * 5000)
            elif name == "short":
                say(f"{head}Content-Length: 5000\r\n\r\n".encode() + b"x" * 4000)
            elif name == "announced":
                say(f"{head}Content-Length: 20000\r\n\r\n".encode())
                self.server.over.wait(30)
            elif name == "endless":
                say(f"{head}Connection: close\r\n\r\n".encode())
                while not self.server.over.is_set():
                    say(b"x" * 1000)
            elif name == "cut":
                say(f"{head}Transfer-Encoding: chunked\r\n\r\n100\r\nabc".encode())
            elif name == "drip":
                say(f"{head}Content-Length: 5000\r\n\r\n".encode())
                while not self.server.over.wait(0.1):
                    say(b"x")
            elif name == "headers":
                while not self.server.over.wait(0.1):
                    say(b"X" if self.server.over.is_set() else b"H")
            elif name == "garbage":
                say(b"\x00\x01nonsense\r\n\r\n")
        except OSError:
            pass  # the client has hung up


@pytest.fixture(scope="module")
def address():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.over = True, threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.over.set()
        server.shutdown()


def test_a_good_answer(address):
    assert downloads.fetch(f"{address}/good", most=5000, seconds=30) == b"x" * 5000


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("short", ConnectionError, "the answer ends after 4000 of 5000 bytes"),
        ("announced", ValueError, "more than 10000 bytes"),
        ("endless", ValueError, "more than 10000 bytes"),
        ("cut", ConnectionError, "cut short or malformed"),
        ("drip", TimeoutError, "no whole answer within 1.5 s|the time is over"),
        ("headers", TimeoutError, "no whole answer within 1.5 s|timed out"),
        ("garbage", (ConnectionError, ValueError), "cut short or malformed|"),
    ],
)
def test_every_download_has_an_end(address, name, error, said):
    begin = time.monotonic()
    with pytest.raises(error, match=said):
        downloads.fetch(f"{address}/{name}", most=MOST, seconds=SECONDS if name in ("drip", "headers") else 30)
    assert time.monotonic() - begin < 10
