"""Units without streams, such as dot products: what drives them, and a loop that runs them cycle by cycle."""
