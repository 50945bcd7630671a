"""What lies in the folder of a run: settings, journal, checkpoints, results, and who holds it."""
