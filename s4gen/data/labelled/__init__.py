"""Data for predictors: rows and the answers that belong to them, and series."""
