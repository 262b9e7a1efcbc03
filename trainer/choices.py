"""What the options of a training may be; imports nothing, so that --help answers at once."""

SCHEDULES = ("cosine", "constant")
CLASS_WEIGHTS = ("none", "balanced")
MIXED_PRECISION = ("none", "bfloat16")
