"""What a model is, and how one is found, loaded and asked."""
