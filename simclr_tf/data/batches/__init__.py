"""What a step is given: batches of images, views, labels and masks."""
