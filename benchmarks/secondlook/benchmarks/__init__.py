"""Data sets, measurements and reports: everything that proves a claim of secondlook."""
