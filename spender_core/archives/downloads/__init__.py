"""Files of models: downloaded with their hash, kept in a cache, and published."""
