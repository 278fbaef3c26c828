"""Every file names its package in Go, Java and C#, so that no command-line options are needed."""

from pathlib import Path
from typing import Final

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileOptions

from tests.support.protos import PROTO_FILES

GO_PACKAGES: Final = {
    "ipfs_cluster_node.v1": "clusterv1",
    "ipfs_cluster_node.worker.v1": "workerv1",
    "ipfs_cluster_node.internal.v1": "internalv1",
    "ipfs_cluster_node.log.v1": "logv1",
}


def in_pascal_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


@pytest.mark.parametrize("file", PROTO_FILES, ids=lambda file: file.name)
def test_every_file_has_the_options_of_each_language(file: FileDescriptorProto) -> None:
    directory = str(Path(file.name).parent)
    assert file.package == directory.replace("/", ".")
    assert file.options == FileOptions(
        csharp_namespace=".".join(map(in_pascal_case, file.package.split("."))),
        go_package=f"ipfs-cluster-node.alt/{directory};{GO_PACKAGES[file.package]}",
        java_multiple_files=True,
        java_outer_classname=f"{in_pascal_case(Path(file.name).stem)}Proto",
        java_package=f"alt.{file.package}",
    )
