"""What deletion means: layout, put, list, restore, expire."""
