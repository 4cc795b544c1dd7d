"""Readers of runs that other tools recorded."""
