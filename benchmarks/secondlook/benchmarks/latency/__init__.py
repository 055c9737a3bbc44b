"""How fast two looks are, and how much they compute, beside the published way on the same weights."""
