"""fgmp.synth.liberty: reads Liberty (.lib) files, the standard description of a standard-cell library.

Own code, because the one parser on PyPI (liberty-parser) is under the GPL; docs/decisions/0007-silicon.md.
"""
