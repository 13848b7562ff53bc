"""What is done to whole language models: calibrate, choose, quantize, save, load, evaluate. Nothing is imported here."""
