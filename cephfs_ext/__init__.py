"""A file gateway over CephFS or any directory, with a trashbin."""
