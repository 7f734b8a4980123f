"""Reports: one HTML page that needs nothing else, and a JSON twin with every number."""
