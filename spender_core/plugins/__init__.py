"""How plugins are found, guarded, and asked what they offer."""
