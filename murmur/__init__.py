"""The command line, the local network and everything that composes the roles."""
