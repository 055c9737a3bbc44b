"""Data sets, measurements and reports: everything that proves a claim of secondlook.

What cannot be done raises a SecondLookError, whose text is one line for the user.
"""
