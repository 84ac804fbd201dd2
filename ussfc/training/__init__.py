"""Training: recipes, labelled data, crops, the loop and its state on disk."""
