"""The model that ships: its text (from the running CPython), its trainer, and the bigram model it is compared with."""
