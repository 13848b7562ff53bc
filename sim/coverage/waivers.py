"""What no test can make happen, or not within hours, and why, one line each."""

__all__ = ["EMPTY_BINS", "WAIVERS"]

EMPTY_BINS = {
    "event: overflow": "START refuses K beyond k_max, and sums of k_max products fit into the accumulators",
}
"""Bins by group and name."""

WAIVERS: tuple[tuple[str, str], ...] = (
    (r"registers\.(id|version|shape|features|limits)_", "a constant that is read as a register"),
    (
        r"(counters|core|registers|output|control)\.[\w]*(values|stall|beats|reads|cycles|span|products|packets|ended|jobs)"
        r"\w*\[(1[89]|2\d|3[01])\]",
        "bits of a counter from 2**18 on: longer than any GEMM here",
    ),
    (
        r"\.\w*(m_tile|_m_value|size_m|waiting_m|m_tiles|rows_left)\w*\[(1\d|2\d)\]",
        "M from 2**10 on: minutes of simulation for each GEMM",
    ),
)
"""Patterns of MODULE.SIGNAL[BIT]:FROM->TO."""
