"""What every room may use: errors, ids, paths, environment variables, strict JSON.

Knows no domain noun and imports nothing heavy.
"""
