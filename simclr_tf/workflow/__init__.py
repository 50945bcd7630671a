"""What all tasks do alike: a run of any task, from its settings to its results."""
