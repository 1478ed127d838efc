"""Where in the user's files a key stands, for messages: `configs/dinov3_sop.py:14`."""

from __future__ import annotations

import ast
from pathlib import Path

from toolbox.config.recipes import find_base


class Places:
    """The literals of a recipe and of its `_base_` files, read without running them."""

    def __init__(self, filename: str | Path, overridden: set[str] | frozenset[str] = frozenset()) -> None:
        self.overridden = overridden
        self.files: list[tuple[str, dict[str, ast.expr]]] = []
        self._read(Path(filename))

    def _read(self, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
        values = {t.id: node.value for node in assignments for t in node.targets if isinstance(t, ast.Name)}
        self.files.append((_shorten_path(path), values))
        for base in read_base_names(tree):
            self._read(find_base(path, base))

    def find(self, key: str) -> str:
        """`file:line` of the literal nearest to a key path; "overrides" for keys set by those; "" if unknown."""
        if any(key == path or key.startswith(path + ".") or path.startswith(key + ".") for path in self.overridden):
            return "overrides"
        best, place = 0, ""
        for file, values in self.files:
            depth, line = _descend(values, key.split("."))
            if depth > best:
                best, place = depth, f"{file}:{line}"
        return place

    def users(self, helper: str) -> list[str]:
        """The key paths whose literals name the helper variable `helper`."""
        keys = [pair for _, values in self.files for pair in values.items() if not pair[0].startswith("_")]
        return [path for key, node in keys for path, name in _list_names(node, key) if name == helper]


def read_base_names(tree: ast.Module) -> list[str]:
    """The entries of `_base_` in a parsed recipe."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets):
            value = ast.literal_eval(node.value)
            return [value] if isinstance(value, str) else list(value)
    return []


def _shorten_path(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path.resolve())


def _list_children(node: ast.expr) -> dict[str, ast.expr]:
    if isinstance(node, ast.Dict):
        return {str(k.value): v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)}
    if isinstance(node, ast.Call):
        return {k.arg: k.value for k in node.keywords if k.arg}
    if isinstance(node, ast.List | ast.Tuple):
        return {str(i): item for i, item in enumerate(node.elts)}
    return {}


def _descend(values: dict[str, ast.expr], names: list[str]) -> tuple[int, int]:
    """How many of the names stand in the literals, and the line of the last of them."""
    depth, line, scope = 0, 0, values
    while depth < len(names):
        # a key of an open dict may hold dots itself: 'model.head' in optim_wrapper.parts
        count = next((n for n in range(len(names) - depth, 0, -1) if ".".join(names[depth : depth + n]) in scope), 0)
        if not count:
            break
        node = scope[".".join(names[depth : depth + count])]
        depth, line = depth + count, node.lineno
        while isinstance(node, ast.Name) and node.id in values and values[node.id] is not node:
            node = values[node.id]
        scope = _list_children(node)
        if list(scope) and depth < len(names) and not names[depth].isdigit() and isinstance(node, ast.List):
            scope = _list_children(node.elts[0])
    return depth, line


def _list_names(node: ast.expr, path: str) -> list[tuple[str, str]]:
    if children := _list_children(node):
        return [pair for key, child in children.items() for pair in _list_names(child, f"{path}.{key}")]
    return [(path, name.id) for name in ast.walk(node) if isinstance(name, ast.Name)]
