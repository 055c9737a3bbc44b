"""A camera without this software, asked about all the same: it is held in front of a server."""
