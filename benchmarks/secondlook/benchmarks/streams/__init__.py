"""Streams: drawn ones, recorded answers, and their replay over networks of any delay."""
