"""What was here is `fgmp.quantizer` now; `hf` is kept until 0.2."""
