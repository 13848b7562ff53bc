"""fgmp.hdl.engine: whole linear layers: buffers, sequencer, lanes, results, and the AXI interfaces around them."""
