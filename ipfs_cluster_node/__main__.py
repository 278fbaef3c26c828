"""`python -m ipfs_cluster_node`."""

from ipfs_cluster_node.cli.main import main

main(prog_name="ipfs-cluster-node")
