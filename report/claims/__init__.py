"""What the project claims: the commands behind each figure, what they measured, and the documents that state it."""
