"""The data sets that questions are taken from, read from their official files as they are, and their scorers.

None is part of this project; each loader says where its files come from, and under what licence as far as
their publishers say.
"""
