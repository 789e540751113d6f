"""Run `python -m murmur` as the console script does."""

from murmur.cli import main

main()
