"""The storages behind the gateway: a directory, or CephFS."""
