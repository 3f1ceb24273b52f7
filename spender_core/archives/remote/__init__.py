"""Files on servers: fetched by ranges, kept by blocks on disk, read as if they were here."""
