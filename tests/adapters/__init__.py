"""The adapters against the real libraries, in an environment of their own: `make test-environments`."""
