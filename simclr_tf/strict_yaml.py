"""YAML of plain names and values: nothing in it refers, repeats a name, or becomes an object."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from simclr_tf.errors import UserError


class _Plain(yaml.SafeLoader):
    """Reads YAML without references, a few lines of which can unfold to gigabytes, and without
    names that are given twice, of which the first would be lost in silence.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            name, mark = self.peek_event().anchor, self.peek_event().start_mark
            raise ComposerError(None, None, f"*{name} refers to another value: write it out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, object]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        counts = Counter(name.value for name, _ in pairs if isinstance(name, yaml.ScalarNode))
        for name in (name for name, count in counts.items() if count > 1):
            raise ConstructorError(None, None, f"{name} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_yaml(path: str | Path, what: str) -> dict[Any, object]:
    """Reads a YAML file of `name: value` lines.

    Args:
        path: The file.
        what: What is expected there, with the path, for the message.

    Raises:
        UserError: It is no such file.
    """
    try:
        with open(path, "rb") as file:
            content = yaml.load(file, _Plain)
    except OSError as error:
        raise UserError(f"Expected {what}, got: {error.strerror}. Correct the path.") from None
    # PyYAML lets some errors of its scalars out as they are (`!!int x`, 2024-99-99, 1:0:0.5).
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"Expected {what}, got: {reason}. Correct the file.") from None
    if not isinstance(content, dict):
        found = "an empty file" if content is None else f"a {type(content).__name__}"
        raise UserError(
            f"Expected {what}, lines such as 'batch_size: 256', got {found}. Write one setting a "
            "line."
        )
    return content
