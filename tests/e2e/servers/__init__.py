"""Nodes for the end-to-end tests: real TLS servers, and plain TCP ones with scripted behaviour."""
