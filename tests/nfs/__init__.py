"""Real NFS: a server and several clients, each a Linux kernel of its own (tests/nfs/cluster.py finds the lab)."""
