"""`secondlook report`: what logs say, as a page, as Markdown and as plots."""
