"""The FUSE face of the vfs: one thin handler per operation."""
