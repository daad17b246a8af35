"""The mount process: wiring and life cycle."""
