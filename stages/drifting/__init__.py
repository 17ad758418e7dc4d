"""What changed between two windows: columns, all of them together, the model's scores, and the verdict."""
