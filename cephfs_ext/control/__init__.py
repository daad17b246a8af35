"""The daemon's HTTP interface and its client."""
