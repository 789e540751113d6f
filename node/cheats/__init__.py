"""Dishonest contributors for demonstrations and tests: the same node with only its dishonest part replaced."""
