"""Frames of one connection: what is old, repeated, missing or damaged goes no further."""

import random
from collections.abc import Iterator

import pytest
from google.protobuf.message import DecodeError

from ipfs_cluster_node.adapters.raft import framing
from ipfs_cluster_node.adapters.raft.framing import FrameError, Framer, Unframer
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

EPOCH, OLD_EPOCH = 7, 6


def append(number: int, size_bytes: int = 10) -> pb.RaftMessage:
    entry = pb.LogEntry(index=number, term=1, command=b"\x00" + bytes(size_bytes))
    return pb.RaftMessage(term=1, append_entries=pb.AppendEntries(entries=[entry]))


def framed(count: int, *, epoch: int = EPOCH, first: int = 0) -> list[pb.RaftFrame]:
    framer = Framer(epoch)
    return [
        f
        for number in range(first, first + count)
        for f in framer.frames(append(number).SerializeToString())
    ]


def taken(unframer: Unframer, frames: list[pb.RaftFrame]) -> Iterator[int]:
    for frame in frames:
        message = unframer.take(frame)
        if message is not None:
            yield message.append_entries.entries[0].index


def test_messages_come_out_as_they_went_in_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "FRAME_BYTES_MAX", 100)
    sent = [append(1, 1000), append(2), pb.RaftMessage(), append(3, 99)]
    framer, unframer = Framer(EPOCH), Unframer(EPOCH)
    frames = [list(framer.frames(message.SerializeToString())) for message in sent]
    assert [len(each) for each in frames] == [11, 1, 1, 2]
    received = [unframer.take(frame) for each in frames for frame in each]
    assert [message for message in received if message is not None] == sent


def test_a_repeated_or_replayed_frame_is_dropped() -> None:
    frames = framed(20)
    repeated = [frame for n, frame in enumerate(frames) for frame in (frame, frame, frames[n // 2])]
    assert list(taken(Unframer(EPOCH), repeated)) == list(range(20))


def test_a_frame_of_an_older_connection_is_dropped() -> None:
    old, new = framed(20, epoch=OLD_EPOCH, first=100), framed(20)
    mixed = [frame for pair in zip(old, new, strict=True) for frame in pair]
    assert list(taken(Unframer(EPOCH), mixed)) == list(range(20))


def test_a_missing_frame_ends_the_connection() -> None:
    first, _, third = framed(3)
    unframer = Unframer(EPOCH)
    unframer.take(first)
    with pytest.raises(FrameError, match="missing"):
        unframer.take(third)


def test_reordered_frames_end_the_connection_or_arrive_in_order() -> None:
    rng = random.Random(1)
    for _ in range(200):
        frames = framed(6)
        rng.shuffle(frames)
        arrived: list[int] = []
        try:
            arrived.extend(taken(Unframer(EPOCH), frames))
        except FrameError:
            pass
        assert arrived == list(range(len(arrived)))


def test_a_message_over_the_bound_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "FRAME_BYTES_MAX", 100)
    monkeypatch.setattr(framing, "MESSAGE_BYTES_MAX", 500)
    unframer = Unframer(EPOCH)
    with pytest.raises(FrameError, match="64 MiB"):
        for frame in Framer(EPOCH).frames(append(1, 1000).SerializeToString()):
            unframer.take(frame)


def test_bytes_that_are_no_message_end_the_connection() -> None:
    [frame] = Framer(EPOCH).frames(b"")
    garbage = b"\xff" * 9
    frame.data, frame.crc = garbage, framing._crc(EPOCH, 1, True, garbage)
    with pytest.raises(FrameError, match="no message"):
        Unframer(EPOCH).take(frame)


def test_of_100_000_mutated_frames_none_is_taken_for_another() -> None:
    """Each is dropped, ends the connection, or is what was sent."""
    rng = random.Random(2)
    [frame] = Framer(EPOCH).frames(append(1, 60).SerializeToString())
    whole, sent = frame.SerializeToString(), append(1, 60)
    refused = 0
    for _ in range(100_000):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            mutated = pb.RaftFrame.FromString(bytes(data))
        except DecodeError:
            continue  # So gRPC ends the stream.
        try:
            message = Unframer(EPOCH).take(mutated)
        except FrameError:
            refused += 1
            continue
        assert message in (None, sent)
    assert refused > 50_000
