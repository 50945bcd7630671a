"""The registry of TensorFlow's kernels, asked which operations of a graph a GPU could not run.

The wheel for Linux is built for CUDA, and its registry can be read on a machine without a GPU. What
it cannot tell: whether a kernel computes the right numbers, whether it is a deterministic one, and
whether XLA can compile an operation whose shape, or whose constant, it does not know.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import function_pb2, kernel_def_pb2, node_def_pb2
from tensorflow.python.framework import kernels, op_def_registry

GPU, XLA = "GPU", "XLA_GPU_JIT"
# Of a kernel that is registered so, every kind of device makes use that has none of its own, but
# for the compilers.
ANY_DEVICE = "DEFAULT"
# Arguments of a function, in the graph that it was traced in: they are no work of a device.
ARGUMENTS = ("Placeholder",)

Functions = dict[str, function_pb2.FunctionDef]


class Missing(NamedTuple):
    """An operation that a GPU, or XLA for a GPU, has no kernel for.

    Attributes:
        operation: Its name with its types, such as "Split(T=int32)".
        kernel: `GPU` or `XLA`.
        node: The function that it is in and its name there.
    """

    operation: str
    kernel: str
    node: str


def missing_kernels(
    concrete: tf.types.experimental.ConcreteFunction, *, compiled: bool = False
) -> list[Missing]:
    """Returns the operations of a traced function, and of those it calls, that have no kernel.

    What `tf.function(jit_compile=True)` has made, and what such a function calls, is looked for
    among the kernels of XLA, all else among those of the device; what is placed on a CPU by the
    code is left out.

    Args:
        concrete: The function.
        compiled: It is called within what XLA compiles.
    """
    graph = concrete.graph.as_graph_def()
    functions: Functions = {f.signature.name: f for f in graph.library.function}
    return list(_walk(graph.node, concrete.graph.name, functions, compiled, set()))


def has_kernel(operation: str, kernel: str, **types: tf.DType) -> bool:
    """Tells whether an operation has a kernel for these types, attributes of the operation."""
    node = node_def_pb2.NodeDef(op=operation)
    for name, dtype in types.items():
        node.attr[name].type = dtype.as_datatype_enum
    return _find_kernel(node, kernel)


def _walk(
    nodes: Any, place: str, functions: Functions, compiled: bool, seen: set[tuple[str, bool]]
) -> Iterator[Missing]:
    for node in nodes:
        if node.op in ARGUMENTS or (not compiled and _is_on_cpu(node)):
            continue
        kernel = XLA if compiled else GPU
        called = list(_called(node, functions))
        if called and node.op in functions:
            pass  # a call written as an operation of the function's own name
        elif not _find_kernel(node, kernel):
            yield Missing(_spell(node), kernel, f"{place}: {node.name}")
        for function in called:
            name = function.signature.name
            within = compiled or any(_must_compile(c) for c in (node, function))
            if (name, within) not in seen:
                seen.add((name, within))
                yield from _walk(function.node_def, name, functions, within, seen)


def _is_on_cpu(node: node_def_pb2.NodeDef) -> bool:
    return tf.DeviceSpec.from_string(node.device).device_type == "CPU"


def _called(node: node_def_pb2.NodeDef, functions: Functions) -> Iterator[function_pb2.FunctionDef]:
    """Yields the functions that an operation may call: a call's, a loop's, those of branches."""
    if node.op in functions:
        yield functions[node.op]
    for value in node.attr.values():
        for call in [value.func] if value.HasField("func") else value.list.func:
            if call.name:
                yield functions[call.name]


def _must_compile(call: node_def_pb2.NodeDef | function_pb2.FunctionDef) -> bool:
    return "_XlaMustCompile" in call.attr and call.attr["_XlaMustCompile"].b


def _find_kernel(node: node_def_pb2.NodeDef, kernel: str) -> bool:
    devices = (kernel,) if kernel == XLA else (kernel, ANY_DEVICE)
    types = _types(node)
    return any(
        _fits(registered, types)
        for registered in _registered(node.op)
        if registered.device_type in devices
    )


def _fits(kernel: kernel_def_pb2.KernelDef, types: dict[str, set[int]]) -> bool:
    """Tells whether a kernel, one that nobody has to ask for by a label, is for these types."""
    return not kernel.label and all(
        types.get(constraint.name, set()) <= set(constraint.allowed_values.list.type)
        for constraint in kernel.constraint
    )


def _types(node: node_def_pb2.NodeDef) -> dict[str, set[int]]:
    """Returns the attributes of an operation that are types, defaults where none is written."""
    definition = op_def_registry.get(node.op)
    found = {}
    for attribute in definition.attr if definition else ():
        name = attribute.name
        value = node.attr[name] if name in node.attr else attribute.default_value
        if attribute.type == "type":
            found[name] = {value.type}
        elif attribute.type == "list(type)":
            found[name] = set(value.list.type)
    return found


def _spell(node: node_def_pb2.NodeDef) -> str:
    types = ", ".join(
        f"{name}={'|'.join(tf.as_dtype(number).name for number in sorted(numbers))}"
        for name, numbers in sorted(_types(node).items())
    )
    return f"{node.op}({types})"


@functools.cache
def _registered(operation: str) -> tuple[kernel_def_pb2.KernelDef, ...]:
    _register_compiler()
    return tuple(kernels.get_registered_kernels_for_op(operation).kernel)


@functools.cache
def _register_compiler() -> None:
    """Has TensorFlow register the kernels of XLA, as it does when it first compiles something."""
    tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(1.0))
