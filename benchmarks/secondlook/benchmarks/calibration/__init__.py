"""Calibration: from a log of answers to a threshold, and a budget's threshold tried on shifting streams."""
