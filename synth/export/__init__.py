"""Projects for layout and FPGA tools (docs/export.md)."""
