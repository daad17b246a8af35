"""The gateway beside its peers: the same work, on the same storage, in one run, in turns."""
