"""Our protos as descriptors with their comments, compiled from `protos/`."""

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

PROTOS: Final = Path(__file__).parents[2] / "protos"


def _compiled() -> tuple[FileDescriptorProto, ...]:
    names = sorted(str(file.relative_to(PROTOS)) for file in PROTOS.rglob("*.proto"))
    with TemporaryDirectory() as directory:
        written = Path(directory) / "set"
        status = protoc.main(
            [
                "protoc",
                f"-I{PROTOS}",
                f"-I{files('grpc_tools') / '_proto'}",
                "--include_source_info",
                f"--descriptor_set_out={written}",
                *names,
            ]
        )
        assert status == 0
        return tuple(FileDescriptorSet.FromString(written.read_bytes()).file)


PROTO_FILES: Final = _compiled()
"""Every file below `protos/`, by name."""
