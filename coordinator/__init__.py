"""The run's coordinator: round state, deadlines, signed lists and records, settlement; read API and live page.

It decides nothing about money alone: every statement is signed, anchored, and recomputed by anyone from public data.
"""
