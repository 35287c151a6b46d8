"""The audio of a run: which utterances are trained on and validated, with their targets."""
