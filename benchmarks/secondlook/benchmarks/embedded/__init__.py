"""The embedded model: how it is built, trained and saved (the recipe behind `--model demo`)."""
