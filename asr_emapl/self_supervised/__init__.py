"""Self-supervision: the teacher, an average of the student, is the only source of targets."""
