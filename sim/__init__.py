"""fgmp.sim: benches that hold the Verilog against the golden model, and the driver of simulated engines.

What is listed here is stable: a change of it stands in CHANGELOG.md. Nothing is imported until it is asked for.
"""

from ..faces import lazy

__all__ = [
    "BlockSet",
    "Campaign",
    "Clock",
    "EngineDriver",
    "Gemm",
    "Result",
    "SimulationError",
    "Simulator",
    "Sink",
    "Source",
    "VerilatedEngine",
    "activation_bytes",
    "blocks_campaign",
    "build_library",
    "campaigns_of",
    "float_results",
    "packed_results",
    "random_gemm",
    "regress",
    "regress_engine",
    "result_bytes",
    "rows_campaign",
    "run_model",
    "tools",
    "uniform_gemm",
    "weight_bytes",
]

__getattr__ = lazy(
    __name__,
    {
        "BlockSet": "selector_campaigns",
        "Campaign": "campaign",
        "Clock": "streams",
        "EngineDriver": "engine.driver",
        "Gemm": "engine.gemm",
        "Result": "engine.driver",
        "SimulationError": "runner",
        "Simulator": "runner",
        "Sink": "streams",
        "Source": "streams",
        "VerilatedEngine": "engine.verilated",
        "activation_bytes": "engine.wire",
        "blocks_campaign": "selector_campaigns",
        "build_library": "engine.verilated",
        "campaigns_of": "regression",
        "float_results": "engine.wire",
        "packed_results": "engine.wire",
        "random_gemm": "engine.random_gemms",
        "regress": "regression",
        "regress_engine": "engine.regression",
        "result_bytes": "engine.wire",
        "rows_campaign": "lane_campaigns",
        "run_model": "engine.model",
        "tools": "runner",
        "uniform_gemm": "engine.random_gemms",
        "weight_bytes": "engine.wire",
    },
)
