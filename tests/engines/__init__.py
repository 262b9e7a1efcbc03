"""One job on every engine that can be had here."""
