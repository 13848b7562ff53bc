"""Rewrites the source of hardware descriptions so that operators, operands, conditions and assignments can be wrong.

`rewritten` changes the syntax tree of a module: each such place becomes a call of a function of `choices`, which builds
what was written, and beside it what a mistake would have written.
"""

import ast
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

__all__ = ["Finder", "rewritten"]

_RUNTIME = "__fgmp_choices__"
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
              ast.LShift: "<<", ast.RShift: ">>"}  # fmt: skip
_COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_CONDITIONS = ("If", "Elif")
_REDUCTIONS = ("any", "all")


class _Rewriter(ast.NodeTransformer):
    """Every call that is put in gets the place first, as FILE:LINE: SOURCE."""

    def __init__(self, file: str):
        self._file = file
        self._clocked = False

    def _call(self, function: str, node: ast.expr, *parts: ast.expr | str) -> ast.Call:
        """`parts` are expressions, still to be rewritten, and texts."""
        place = ast.Constant(f"{self._file}:{node.lineno}: {_short(node)}")
        target = ast.Attribute(ast.Name(_RUNTIME, ast.Load()), function, ast.Load())
        arguments = [ast.Constant(part) if isinstance(part, str) else self.visit(part) for part in parts]
        return ast.copy_location(ast.Call(target, [place, *arguments], []), node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if type(node.op) not in _OPERATORS:
            return self.generic_visit(node)  # type: ignore[return-value]
        return self._call("binary", node, _OPERATORS[type(node.op)], node.left, node.right)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if not isinstance(node.op, ast.Invert):
            return self.generic_visit(node)  # type: ignore[return-value]
        return self._call("inverted", node, node.operand)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if len(node.ops) > 1 or type(node.ops[0]) not in _COMPARISONS:
            return self.generic_visit(node)  # type: ignore[return-value]
        return self._call("compared", node, _COMPARISONS[type(node.ops[0])], node.left, node.comparators[0])

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if not isinstance(node.ctx, ast.Load):
            return self.generic_visit(node)  # type: ignore[return-value]
        index = node.slice
        if isinstance(index, ast.Slice):
            ends = [end or ast.Constant(None) for end in (index.lower, index.upper, index.step)]
            index = ast.Call(ast.Name("slice", ast.Load()), ends, [])
        return self._call("part", node, node.value, index)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        found = None
        if isinstance(node.func, ast.Attribute):
            found = self._method(node, node.func)
        elif isinstance(node.func, ast.Name):
            found = self._function(node, node.func.id)
        return found or self.generic_visit(node)  # type: ignore[return-value]

    def _method(self, node: ast.Call, function: ast.Attribute) -> ast.expr | None:
        if function.attr == "eq" and len(node.args) == 1:
            found = self._call("clocked" if self._clocked else "combined", node, node.args[0])
            found.args.insert(1, function.value)  # which is no value: it is assigned to
            return found
        if function.attr in _REDUCTIONS and not node.args:
            return self._call("reduced", node, function.attr, function.value)
        if function.attr in _CONDITIONS:
            node.args = [self._call("condition", argument, argument) for argument in node.args]
            return node
        return None

    def _function(self, node: ast.Call, name: str) -> ast.expr | None:
        if name == "Mux" and len(node.args) == 3:
            return self._call("multiplexed", node, *node.args)
        if name == "reduce":
            return self._call("joined", node, *node.args)
        if name == "Module":
            target = ast.Attribute(ast.Name(_RUNTIME, ast.Load()), "module", ast.Load())
            return ast.copy_location(ast.Call(target, [node], []), node)
        return None

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AugAssign:
        self._clocked = isinstance(node.target, ast.Attribute) and node.target.attr == "sync"
        node.value = self.visit(node.value)
        self._clocked = False
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Bodies only: what stands in annotations and defaults is no hardware."""
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node


class _Functions(ast.NodeTransformer):
    def __init__(self, file: str):
        self._rewriter = _Rewriter(file)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node if node.name == "__init__" else self._rewriter.visit_FunctionDef(node)


def _short(node: ast.expr) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def rewritten(source: str, file: str) -> ast.Module:
    """The syntax tree of the module `source`, which places call `file`."""
    tree = _Functions(file).visit(ast.parse(source))
    imports = ast.parse(f"import fgmp.sim.mutants.choices as {_RUNTIME}").body
    after = 1 if ast.get_docstring(tree) is not None else 0
    tree.body[after:after] = imports
    return ast.fix_missing_locations(tree)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        """Never from, nor into, a file of bytecode."""
        path = Path(self.get_filename(fullname))
        source = path.read_text(encoding="utf-8")
        # What describes hardware makes modules; what only looks at them stays as it is.
        if " Module" not in source or path.name == "hierarchy.py":
            return compile(source, str(path), "exec")
        return compile(rewritten(source, fullname.removeprefix("fgmp.").replace(".", "/") + ".py"), str(path), "exec")


class Finder(MetaPathFinder):
    """Put first into `sys.meta_path`, it rewrites all that is imported from `fgmp.hdl`."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """The module's, with a loader that rewrites it; None for all others."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname.startswith("fgmp.hdl.") else None
        if spec is not None and spec.origin and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(fullname, spec.origin)
        return spec
