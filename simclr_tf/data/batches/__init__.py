"""Batches that a step is given: images, views, labels and masks."""
