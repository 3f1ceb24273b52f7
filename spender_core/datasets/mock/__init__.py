"""Mock surveys: galaxies, quasars and stars as an instrument would observe them, and the truth."""
