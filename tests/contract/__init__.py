"""What every storage promises, checked on each of them through the port, without FUSE."""
