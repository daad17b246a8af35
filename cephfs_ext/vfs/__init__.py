"""What a file operation means: POSIX and policy, without FUSE."""
