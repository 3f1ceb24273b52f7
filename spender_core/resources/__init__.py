"""Tables of lines, each with its source."""
