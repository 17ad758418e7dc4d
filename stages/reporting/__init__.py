"""What people see of an evaluation: curves, slices, importance, plots, and the one page."""
