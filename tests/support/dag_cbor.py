"""Values of DAG-CBOR: random ones, and the arguments of a call that sends a mail."""

from hypothesis import strategies as st

from ipfs_cluster_node.core.dag_cbor import Link, Value
from ipfs_cluster_node.core.multiformats import DAG_CBOR, cid_of

LINK = Link.to(cid_of(DAG_CBOR, b"block"))

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.binary(min_size=32, max_size=32).map(lambda digest: Link(b"\x01\x55\x12\x20" + digest))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=6)
    ),
    max_leaves=30,
)


ARGS: Value = {
    "from": "alice@example.com",
    "to": ["bob@example.com", "carol@not.example.com", "dan@example.com"],
    "tags": {"a": 1, "b": 2, "aa": 3},
    "raw": b"\xd6\xa9\xc1\x8c\xf8\xc4",
    "flag": True,
    "one": 1,
    "half": 0.5,
    "none": None,
    "": "empty",
    "a.b": "dotted",
    'quote"]': "quoted",
    "ünï": "umlauts",
    "deep": {"er": {"list": [{"x": 1}, {"x": 2}]}},
}
