"""How trees really go away."""
