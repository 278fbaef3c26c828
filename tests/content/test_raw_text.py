"""The text of a CID shows whether it is of a raw block."""

from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.multiformats import DAG_CBOR, DAG_PB, RAW, RAW_TEXT_BEGINS, Cid


@given(st.binary(min_size=32, max_size=32))
def test_raw_cids_alone_begin_so(digest: bytes) -> None:
    assert str(Cid(RAW, digest)).startswith(RAW_TEXT_BEGINS)
    for codec in (DAG_PB, DAG_CBOR):
        assert not str(Cid(codec, digest)).startswith(RAW_TEXT_BEGINS)
