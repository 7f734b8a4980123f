"""Fragment files to counts of cells by regions: read, parse, sort in runs, merge, write."""
