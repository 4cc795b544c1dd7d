"""Which releases of the official client work here: `python -m tools.client_releases`."""
