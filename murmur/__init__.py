"""Compose the packages: the command line, the local network, the simulator."""

__version__ = "0.1.0"
