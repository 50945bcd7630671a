"""Where images come from: a kind of data set a file."""
