"""The sides of `benchmarks/augment.py`: our views and how others make them, a process each."""
