"""Measurements, run on request: `python -m tests.bench NAME [options]`. Results are kept as dated notes."""
