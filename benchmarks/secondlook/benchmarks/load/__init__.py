"""Answers a second under load: many edges on one server, beside one edge at a time."""
