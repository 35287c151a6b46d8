"""What is learned of a batch: the interface of an objective, and CTC on transcripts and pseudo-labels."""
