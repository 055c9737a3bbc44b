"""What a run's log says: curves, separation of right from wrong, groups, qualities and regions. No model."""
