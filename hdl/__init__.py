"""fgmp.hdl: Amaranth modules, and the Verilog that they become.

What is listed here is stable: a change of it stands in CHANGELOG.md. Nothing is imported until it is asked for.
"""

from ..faces import lazy

__all__ = [
    "PRESETS",
    "REGISTERS",
    "AccumulatorConfig",
    "ActivationDecoderConfig",
    "DecoderConfig",
    "Design",
    "DotConfig",
    "EngineConfig",
    "EngineCore",
    "EngineLaneConfig",
    "GemmLoad",
    "GemmRate",
    "Lane",
    "LaneConfig",
    "Port",
    "RowOrderConfig",
    "Selector",
    "SelectorConfig",
    "build",
    "build_preset",
    "c_header",
    "gemm_rate",
    "preset",
    "register",
    "write_design",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "PRESETS": "config",
        "REGISTERS": "engine.registers",
        "AccumulatorConfig": "config",
        "ActivationDecoderConfig": "config",
        "DecoderConfig": "config",
        "Design": "design",
        "DotConfig": "config",
        "EngineConfig": "config",
        "EngineCore": "engine.core",
        "EngineLaneConfig": "config",
        "GemmLoad": "engine.rate",
        "GemmRate": "engine.rate",
        "Lane": "lane",
        "LaneConfig": "config",
        "Port": "design",
        "RowOrderConfig": "config",
        "Selector": "selector",
        "SelectorConfig": "config",
        "build": "design",
        "build_preset": "design",
        "c_header": "engine.registers",
        "gemm_rate": "engine.rate",
        "preset": "config",
        "register": "engine.registers",
        "write_design": "design",
    },
)
