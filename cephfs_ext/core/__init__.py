"""What every layer shares: types, errors, ports, configuration. Standard library only."""
