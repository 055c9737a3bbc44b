"""The *signs* data: procedural photographs of coloured, numbered plates, their questions and their truth."""
