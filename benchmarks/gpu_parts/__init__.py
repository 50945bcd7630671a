"""What `benchmarks/gpu.py` measures: each part a function that runs in a process of its own."""
