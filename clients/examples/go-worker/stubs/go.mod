module ipfs-cluster-node.alt

go 1.25
