"""The types of image processors of Hugging Face transformers that are computed here: a row for each.

A file names a type, or leaves that to the model, and holds what differs from the type's defaults.

The reference is the class that `AutoImageProcessor.from_pretrained` of transformers 5 gives. With torchvision installed
it resizes tensors, the width before the height, and so does ours, with Pillow. The two differ by one step of 255 in
some pixels, and by two where bicubic or Lanczos enlarges; `nearest` may take a pixel's neighbour. Without torchvision,
or with `backend="pil"`, it resizes with Pillow, in Pillow's own order.

Source: transformers 5.24: image_processing_backends.py and image_processing_utils.py for what the types share, and
models/<source>/image_processing_<source>.py for each row.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.errors import InputError
from vit_jax.options import is_number, short

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers. Tensors have no box and no hamming."""
MAX_SIDE = 65_536
"""The longest side in pixels that a processor may ask for."""
SQUASHED_FROM = 384
"""ConvNeXt's processor cuts nothing from this shortest edge on."""

_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Means and standard deviations: transformers' image_utils.py."""

_COMMON = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
KEYS = {*_COMMON, "size", "default_to_square", "crop_size", "do_center_crop", "resample", "image_mean", "image_std"}
KEYS |= {"do_pad", "pad_size"}
"""What every type has and what can change pixels."""
IDLE = {"image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb", "data_format"}
IDLE |= {"input_data_format", "return_tensors", "device", "disable_grouping", "image_seq_length", "use_fast"}
IDLE |= {"do_reduce_labels", "reduce_labels", "_valid_processor_keys", "_valid_kwargs_names", "_name_or_path"}
"""What changes no pixel of an image in RGB, to which ours turns every image."""
_DETECTION = frozenset({"max_size", "format", "do_convert_annotations", "pad_and_return_pixel_mask"})


@dataclasses.dataclass(frozen=True)
class Cut:
    """How an image comes to one size.

    resize: as of `Preprocessing`.
    before: height and width that an image is resized to, or just covers.
    after: height and width of what is cut out; None where nothing is, so that the size varies with the image.
    """

    resize: str
    before: tuple[int, int]
    after: tuple[int, int] | None


def _covered(name: str, edge: int, options: Mapping[str, Any]) -> Cut:
    """Resize the shortest edge, as most types do."""
    return Cut("shortest_edge", (edge, edge), None)


def _levit(name: str, edge: int, options: Mapping[str, Any]) -> Cut:
    edge = int(256 / 224 * edge)
    return Cut("shortest_edge", (edge, edge), None)


def _convnext(name: str, edge: int, options: Mapping[str, Any]) -> Cut:
    """Cut out the share `crop_pct`, or squash a large image."""
    if edge >= SQUASHED_FROM:
        return Cut("exact", (edge, edge), (edge, edge))
    share = options.get("crop_pct", 224 / 256)
    if not is_number(share) or not edge / MAX_SIDE < share <= 1:
        raise InputError(f"{name}: crop_pct is {short(share)}; valid: a number above 0, at most 1")
    before = int(edge / share)
    return Cut("shortest_edge", (before, before), (edge, edge))


@dataclasses.dataclass(frozen=True)
class ProcessorType:
    """One type of image processor: its defaults, and what it does with them.

    source: folder in transformers' `models`.
    statistics: `image_mean` and `image_std`.
    resample: number of the filter.
    size: by its keys.
    default_to_square: whether a `size` that is one number stands for both sides, or for the shortest edge.
    crop_size: of both sides; None has to be given where `do_center_crop` is true.
    do_center_crop: whether the centre is cut out.
    do_pad: whether images smaller than `pad_size`, or than others of their batch, get a border.
    edge: what it does with a shortest edge; None where it takes none, or goes by the longest edge as well.
    sides: whether it takes height and width.
    crops: whether it heeds `do_center_crop` at all.
    pads: likewise `do_pad`.
    filters: numbers of the filters in which ours does the same.
    keys: its own, besides those that every type has.
    """

    source: str
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    resample: int
    size: Mapping[str, int]
    default_to_square: bool = True
    crop_size: int | None = None
    do_center_crop: bool = False
    do_pad: bool = False
    edge: Callable[[str, int, Mapping[str, Any]], Cut] | None = _covered
    sides: bool = True
    crops: bool = True
    pads: bool = True
    filters: tuple[int, ...] = tuple(range(len(RESAMPLE)))
    keys: frozenset[str] = frozenset()

    @property
    def defaults(self) -> dict[str, Any]:
        """What a file leaves out."""
        names = ("size", "default_to_square", "crop_size", "do_center_crop", "do_pad", "resample")
        mean, std = self.statistics
        return {**_COMMON, **{name: getattr(self, name) for name in names}, "image_mean": mean, "image_std": std}

    @property
    def sizes(self) -> str:
        """The forms of `size` that are computed."""
        return " or ".join(["height and width"] * self.sides + ["shortest_edge"] * (self.edge is not None))


_SQUARE = {"height": 224, "width": 224}
_EDGE: dict[str, Any] = {"size": {"shortest_edge": 224}, "default_to_square": False}
_EDGE |= {"crop_size": 224, "do_center_crop": True}
_DETR: dict[str, Any] = {"size": {"shortest_edge": 800, "longest_edge": 1333}, "default_to_square": False}
_DETR |= {"do_pad": True, "edge": None, "crops": False, "keys": _DETECTION}
PROCESSORS: dict[str, ProcessorType] = {
    "ViTImageProcessor": ProcessorType("vit", _HALF, 2, _SQUARE),
    "DeiTImageProcessor": ProcessorType(
        "deit", _HALF, 3, {"height": 256, "width": 256}, crop_size=224, do_center_crop=True
    ),
    "PvtImageProcessor": ProcessorType("pvt", _IMAGENET, 3, _SQUARE),
    "ConvNextImageProcessor": ProcessorType(
        "convnext",
        _HALF,
        3,
        {"shortest_edge": 384},
        default_to_square=False,
        edge=_convnext,
        sides=False,
        pads=False,
        keys=frozenset({"crop_pct"}),
    ),
    "LevitImageProcessor": ProcessorType("levit", _IMAGENET, 3, **_EDGE, edge=_levit),
    "BeitImageProcessor": ProcessorType("beit", _HALF, 3, _SQUARE, crop_size=224, pads=False),
    "BitImageProcessor": ProcessorType("bit", _CLIP, 3, **_EDGE),
    # It has no class for Pillow. It resizes numbers between 0 and 1 and cuts nothing off where a filter overshoots.
    "DINOv3ViTImageProcessor": ProcessorType("dinov3_vit", _IMAGENET, 2, _SQUARE, pads=False, filters=(2,)),
    "CLIPImageProcessor": ProcessorType("clip", _CLIP, 3, **_EDGE),
    "SiglipImageProcessor": ProcessorType("siglip", _HALF, 3, _SQUARE, default_to_square=False),
    "SegformerImageProcessor": ProcessorType(
        "segformer", _IMAGENET, 2, {"height": 512, "width": 512}, crops=False, pads=False
    ),
    "DetrImageProcessor": ProcessorType("detr", _IMAGENET, 2, **_DETR),
    "YolosImageProcessor": ProcessorType("yolos", _IMAGENET, 2, **_DETR),
}
"""Type -> what it does. ResNet and ConvNeXt V2 have ConvNext's, DINOv2 has Bit's, Swin and MAE have ViT's."""
