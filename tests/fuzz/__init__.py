"""Readers of bytes from strangers, and what they may do with them: `targets` for hypothesis and atheris alike."""
