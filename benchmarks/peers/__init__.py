"""What a user writes today for the same work, and what the machine can do."""
