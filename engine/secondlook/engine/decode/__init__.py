"""Many sequences on one model: cache, plans, decoder, scheduler. Knows rows and slots, no pictures."""
