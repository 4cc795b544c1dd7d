"""Runs and tables in and out: CSV, JSONL, Parquet, and the files of other tools."""
