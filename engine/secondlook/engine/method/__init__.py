"""The method as arithmetic: doubt, policy, budget, decision, region."""
