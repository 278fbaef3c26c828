"""Messages in numbered frames of one connection; old, repeated or damaged ones are stopped.

A gRPC stream keeps the order of its messages, and TLS their bytes. The frames also hold where
something in between breaks that, and tell one connection's messages from an earlier one's (hazards
H1, H2, H23).
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

FRAME_BYTES_MAX: Final = 1024 * 1024
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
_HEAD: Final = struct.Struct("<QQ?")


class FrameError(ValueError):
    """The connection can no longer be trusted, and must be replaced."""


class Framer:
    """The sending end of one connection."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._sequence = 0

    def frames(self, data: bytes) -> Iterator[pb.RaftFrame]:
        """Cut the bytes of a message into frames, to be sent in this order."""
        offset = 0
        while offset == 0 or offset < len(data):
            piece = data[offset : offset + FRAME_BYTES_MAX]
            offset += FRAME_BYTES_MAX
            last = offset >= len(data)
            self._sequence += 1
            yield pb.RaftFrame(
                epoch=self._epoch,
                sequence=self._sequence,
                crc=_crc(self._epoch, self._sequence, last, piece),
                data=piece,
                last=last,
            )


class Unframer:
    """The receiving end of one connection."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._sequence = 0
        self._gathered = bytearray()
        self.size_bytes = 0
        """Of the last message that was completed."""

    def take(self, frame: pb.RaftFrame) -> pb.RaftMessage | None:
        """Take a frame; returns the message that it completes, if any.

        Raises:
            FrameError: Frames before it are missing, or it is damaged, or the message is over
                64 MiB.
        """
        if frame.epoch != self._epoch or frame.sequence <= self._sequence:
            return None
        if frame.sequence != self._sequence + 1:
            raise FrameError(f"frame {self._sequence + 1} of a connection of consensus is missing")
        data = frame.data
        if _crc(frame.epoch, frame.sequence, frame.last, data) != frame.crc:
            raise FrameError("a frame of consensus is damaged")
        self._sequence = frame.sequence
        if len(self._gathered) + len(data) > MESSAGE_BYTES_MAX:
            raise FrameError("a message of consensus is over 64 MiB")
        if not frame.last:
            self._gathered += data
            return None
        whole = bytes(self._gathered) + data if self._gathered else data
        self._gathered.clear()
        self.size_bytes = len(whole)
        try:
            return pb.RaftMessage.FromString(whole)
        except DecodeError as error:
            raise FrameError("bytes that are no message of consensus") from error


def _crc(epoch: int, sequence: int, last: bool, data: bytes) -> int:  # noqa: FBT001
    return zlib.crc32(data, zlib.crc32(_HEAD.pack(epoch, sequence, last)))
