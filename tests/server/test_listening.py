"""The socket that the server listens on."""

from __future__ import annotations

import socket

import pytest

from speechprompt.errors import WorkError
from speechprompt.server.running import listen


def test_accepted_connections_send_what_they_have_at_once() -> None:
    with (
        listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()) as _client,
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_address_is_named() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(WorkError, match=f"cannot listen on 127.0.0.1:{port}: .*choose another --port"):
            listen("127.0.0.1", port)
