"""The comments are the manual: everything has one, and a node's reflection shows them."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from ipfs_cluster_node.node.node import DESCRIBED
from ipfs_cluster_node.services.reflection import ReflectionServicer
from tests.support.protos import PROTO_FILES, PROTOS

Path = tuple[int, ...]
"""Where something is in a file: field numbers of `descriptor.proto`, and indices."""

SYNTAX: Path = (12,)
"""Where the comment of the whole file stands."""
COMMENT = re.compile(r"^\s*// ?(.*)$", re.MULTILINE)


def declared(file: FileDescriptorProto) -> Iterator[tuple[Path, str]]:
    """The place and the name of all that needs a comment."""
    yield SYNTAX, file.name
    for at, message in enumerate(file.message_type):
        yield from _in_message((4, at), message)
    for at, enum in enumerate(file.enum_type):
        yield from _in_enum((5, at), enum)
    for at, service in enumerate(file.service):
        yield (6, at), service.name
        for method_at, method in enumerate(service.method):
            yield (6, at, 2, method_at), f"{service.name}.{method.name}"
    for at, extension in enumerate(file.extension):
        yield (7, at), extension.name


def _in_message(path: Path, message: DescriptorProto) -> Iterator[tuple[Path, str]]:
    if message.options.map_entry:
        return
    yield path, message.name
    for at, field in enumerate(message.field):
        yield (*path, 2, at), f"{message.name}.{field.name}"
    for at, nested in enumerate(message.nested_type):
        yield from _in_message((*path, 3, at), nested)
    for at, enum in enumerate(message.enum_type):
        yield from _in_enum((*path, 4, at), enum)
    optional = {field.oneof_index for field in message.field if field.proto3_optional}
    for at, oneof in enumerate(message.oneof_decl):
        if at not in optional:
            yield (*path, 8, at), f"{message.name}.{oneof.name}"


def _in_enum(path: Path, enum: EnumDescriptorProto) -> Iterator[tuple[Path, str]]:
    yield path, enum.name
    for at, value in enumerate(enum.value):
        yield (*path, 2, at), f"{enum.name}.{value.name}"


def comments(file: FileDescriptorProto) -> dict[Path, str]:
    return {tuple(at.path): at.leading_comments for at in file.source_code_info.location}


@pytest.mark.parametrize("file", PROTO_FILES, ids=lambda file: file.name)
def test_everything_has_a_comment(file: FileDescriptorProto) -> None:
    found = comments(file)
    assert [name for path, name in declared(file) if not found.get(path, "").strip()] == []


async def _served(*requests: ServerReflectionRequest) -> list[FileDescriptorProto]:
    async def each() -> AsyncIterator[ServerReflectionRequest]:
        for request in requests:
            yield request

    servicer: Any = ReflectionServicer(DESCRIBED)
    return [
        FileDescriptorProto.FromString(file)
        async for response in servicer.ServerReflectionInfo(each(), None)
        for file in response.file_descriptor_response.file_descriptor_proto
    ]


@pytest.mark.asyncio
async def test_reflection_shows_every_comment_of_the_services_and_what_they_need() -> None:
    served = await _served(
        *(ServerReflectionRequest(file_containing_symbol=name) for name in DESCRIBED)
    )
    by_name = {file.name: file for file in served}
    written = {file.name: file for file in PROTO_FILES}
    assert {"google/protobuf/timestamp.proto", "ipfs_cluster_node/v1/errors.proto"} <= set(by_name)
    for name in by_name.keys() & written.keys():
        assert by_name[name].SerializeToString() == written[name].SerializeToString()
    assert by_name.keys() - written.keys() == {n for n in by_name if n.startswith("google/")}


@pytest.mark.parametrize("file", PROTO_FILES, ids=lambda file: file.name)
def test_descriptors_carry_every_line_of_comment(file: FileDescriptorProto) -> None:
    """One that is detached from what it describes is in no manual."""
    carried = "\n".join(comments(file).values())
    for line in COMMENT.findall((PROTOS / file.name).read_text()):
        assert line.strip() in carried
