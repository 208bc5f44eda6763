"""Show things to people: progress bars, plots, pages."""
