"""The parts of ``predict``: where results go and what they hold, what is said on the way, scans that fail."""
