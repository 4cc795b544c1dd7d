"""`tinsmith runs`: what the recorder kept of training runs, on this machine or in a database."""
