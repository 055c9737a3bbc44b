"""How the embedded model is built, trained and saved: the recipe behind `--model demo`.

Run from a checkout, as `python -m training.pretrain`; in no wheel.
"""
