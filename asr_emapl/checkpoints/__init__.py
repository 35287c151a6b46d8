"""Checkpoints: file format, retention, saving in the background, and resume."""
