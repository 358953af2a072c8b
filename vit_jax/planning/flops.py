"""Counts matrix products: of any function, by tracing it, and of a classifier, by its model's formula."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def matrix_flops(function: Callable, *args: Any) -> int:
    """Count the FLOPs of the matrix products and convolutions that a function asks for, a multiply-add as two.

    The function is traced, not run: what the compiler makes of it is not looked at. The body of a `scan` counts as
    often as it runs, that of a loop of unknown length once, and of several branches the one with the most.

    Args:
        function: of arrays, to trees of arrays.
        *args: trees of arrays, or of their shapes and types.

    Example:
        >>> matrix_flops(lambda a, b: a @ b, jax.ShapeDtypeStruct((2, 3), "float32"), jax.numpy.ones((3, 5)))
        60
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def classifier_flops(encoder: Any, params: Any, shape: tuple[int, int, int]) -> int | None:
    """Return the FLOPs of a classifier's forward pass of one image by the model's own formula.

    A training step takes three times as many. The patches' tokens are not asked for; the head counts with the products
    of its kernels. None if the model has no formula.

    Args:
        encoder: with `flops`.
        params: abstract; all that is not in `encoder` is the head.
        shape: of an image, `(H, W, channels)`.
    """
    if not hasattr(encoder, "flops"):
        return None
    head = {name: leaf for name, leaf in params.items() if name != "encoder"}
    kernels = [math.prod(leaf.shape) for leaf in jax.tree.leaves(head) if len(leaf.shape) > 1]
    return encoder.flops(shape[:2], shape[2], patch_tokens=False) + 2 * sum(kernels)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, inside = equation.primitive.name, [_count(each) for each in _inner(equation.params)]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
            features = kernel[numbers.rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features
        elif name == "scan":
            total += equation.params["length"] * sum(inside)
        elif name == "cond":
            total += max(inside)
        else:
            total += sum(inside)
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """Return the functions that an operation runs."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(each, "jaxpr", each)
            if hasattr(inner, "eqns"):
                yield inner
