"""A caller whose body does not end."""

from __future__ import annotations

import select
import socket
import time
from typing import NamedTuple

FORM_HEADER = "Content-Type: multipart/form-data; boundary=b"
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


class Answer(NamedTuple):
    """What came, when (seconds after the request began), and how many bytes of a body had been sent by then."""

    text: str
    seconds: float
    sent: int

    @property
    def status(self) -> int:
        return int(self.text.split()[1])


def upload_without_end(
    port: int,
    *headers: str,
    host: str = "127.0.0.1",
    path: str = "/detect",
    begin: bytes = b"",
    piece: bytes = b"x",
    pause_s: float = 0.2,
    most_s: float = 120,
) -> Answer:
    """Post a chunked body, `begin` and then `piece` after `piece`, until the service answers.

    Raises:
        AssertionError: it has not answered after `most_s` seconds.
    """
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", "Transfer-Encoding: chunked", *headers]
    text, sent, begun = b"", 0, time.monotonic()
    with socket.create_connection((host, port), timeout=30) as raw:
        raw.sendall("\r\n".join([*head, "", ""]).encode())
        following = begin or piece
        while not select.select([raw], [], [], pause_s if sent else 0)[0]:
            assert time.monotonic() - begun < most_s, "no answer came"
            raw.sendall(b"%x\r\n%b\r\n" % (len(following), following))
            sent += len(following)
            following = piece
        seconds = time.monotonic() - begun
        while not text.endswith(b"}"):  # every answer is JSON; who answers may leave it to us to hang up
            received = raw.recv(65536)
            assert received, f"it hung up after {text!r}"
            text += received
    return Answer(text.decode(), seconds, sent)
