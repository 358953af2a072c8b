"""What evaluators of classes ask of the data's labels."""

from vit_jax.errors import InputError
from vit_jax.types import Fields


def check_one_label(metric: str, fields: Fields) -> None:
    """Check that an image has exactly one class.

    Args:
        metric: name of the evaluator, for the message.
        fields: of the data.

    Raises:
        InputError: the label is of kind `labels`, any number of classes.
    """
    kinds = {name: field.kind for name, field in fields.items() if field.kind in ("label", "labels")}
    name = next(iter(kinds), None)
    if name is not None and kinds[name] == "labels":
        raise InputError(
            f"the metric {metric!r} needs one label for each image, and the field {name!r} has several; "
            "valid: average_precision"
        )
