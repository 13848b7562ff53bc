"""Which blocks become FP4: scores, the threshold, packed weights, activation registers. Nothing is imported here."""
