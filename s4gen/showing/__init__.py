"""What is shown to people: progress bars, plots, pages."""
