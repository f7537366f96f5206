"""Messages over a socket: a length, then the bytes."""

from __future__ import annotations

import contextlib
import socket
import struct

_LENGTH = struct.Struct("<Q")
# No message is larger: a prompt of a million tokens with its blocks takes 16 MB.
LARGEST = 1 << 30


class ChannelClosedError(ConnectionError):
    """The other end is gone."""


class Channel:
    """One end of a stream socket. A message that is half received when a signal's handler raises
    is not lost: what there is of it stays here."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._received = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """Raises :class:`ChannelClosedError`."""
        try:
            self._socket.sendall(_LENGTH.pack(len(message)) + message)
        except OSError as error:
            raise ChannelClosedError(str(error)) from error

    def receive(self) -> bytes:
        """The next message, once it is whole; raises :class:`ChannelClosedError`."""
        while True:
            message = self._taken()
            if message is not None:
                return message
            self._read()

    def received(self) -> list[bytes]:
        """The messages that are whole after one read of what is there; may be none. Raises
        :class:`ChannelClosedError`."""
        self._read()
        messages = []
        while (message := self._taken()) is not None:
            messages.append(message)
        return messages

    def _read(self) -> None:
        try:
            piece = self._socket.recv(1 << 20)
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        if not piece:
            raise ChannelClosedError("the other end is closed")
        self._received += piece

    def _taken(self) -> bytes | None:
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > LARGEST:
            raise ChannelClosedError(f"a message of {length} bytes")
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message

    def end(self) -> None:
        """Both ends are told that there is no more to come, whoever else has them open: a thread
        that waits here goes on."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
