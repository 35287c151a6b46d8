"""Checkpoints: their file format, which of them are kept, and saving in the background."""
