"""A Ceph cluster of one node, for tests, benchmarks and trying things out."""
