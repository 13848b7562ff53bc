"""Other people's checkpoints: their quantized models become plain ones, and ours become what others load."""
