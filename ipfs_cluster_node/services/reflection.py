"""The standard `grpc.reflection.v1alpha`, with the comments of our protos."""

from collections.abc import AsyncIterator
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha import reflection, reflection_pb2


class ReflectionServicer(reflection.aio.ReflectionServicer):
    """Describes the services as `protos/` does: the comments are the manual.

    Descriptors in the memory of a process have none, so each file of ours is answered with the
    one that was generated beside its stubs.
    """

    async def ServerReflectionInfo(  # type: ignore[override]  # Its types are wrong.
        self, request_iterator: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answer about services, files and symbols."""
        base: Any = super()
        async for response in base.ServerReflectionInfo(request_iterator, context):
            files = response.file_descriptor_response.file_descriptor_proto
            for at, file in enumerate(files):
                files[at] = _commented(FileDescriptorProto.FromString(file).name) or file
            yield response


@cache
def _commented(name: str) -> bytes | None:
    """A file of ours with its comments; None of a file of others."""
    package, _, proto = name.rpartition("/")
    if not package.startswith("ipfs_cluster_node/"):
        return None
    described = proto.removesuffix(".proto") + "_pb2.binpb"
    written = (resources.files(package.replace("/", ".")) / described).read_bytes()
    [file] = FileDescriptorSet.FromString(written).file
    return file.SerializeToString()
