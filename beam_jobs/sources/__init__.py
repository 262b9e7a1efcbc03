"""What to read: files, work units, raw records."""
