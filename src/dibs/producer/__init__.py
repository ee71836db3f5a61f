"""The producer's side of a process: how a message gets to the broker, and an answer back."""
