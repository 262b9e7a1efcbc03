"""What the jobs must write, computed apart: plain Python, NumPy and Pillow, no product code."""
