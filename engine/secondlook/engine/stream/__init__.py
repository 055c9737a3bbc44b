"""Streams: a small model answers every frame, a large one teaches it late (context transfer).

Qian et al., arXiv 2508.12638, whose abstract fixes the principle; the rules here are ours. What one stream
knows and decides (`state`, and the arithmetic that it is made of) has no clock, no model and no network:
whoever drives it, a server or a replay, gives it frames and answers, and both come to the same.
"""
