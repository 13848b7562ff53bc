"""What is done to whole models: calibrate, choose, quantize, save, load, evaluate. Nothing is imported here."""
