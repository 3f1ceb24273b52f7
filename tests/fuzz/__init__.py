"""Damaged and hostile files: what reads them may refuse them, and nothing else."""
