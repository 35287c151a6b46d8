"""The trainer and its parts: step, optimizer, world of processes, checkpoints, log."""
