"""The position embedding of a plain ViT for a format that has only a learned one."""

import dataclasses

import numpy as np

from vit_jax.ops import posemb
from vit_jax.pretrained.export import ExportModel

_GRID, _PREFIX = "encoder/pos_embedding/grid", "encoder/pos_embedding/prefix"


def patch_grid(model: ExportModel) -> tuple[int, int]:
    """Return the rows and columns of patches."""
    return model.encoder.grid_of(model.preprocessing.image_size)


def with_table(model: ExportModel) -> ExportModel:
    """Return every token one learned position, prefix tokens included; the outputs stay the same.

    Computed embeddings become a table of their values, and where there is no position, that position is zero.
    """
    encoder, (rows, columns) = model.encoder, patch_grid(model)
    dim, num_prefix = encoder.hidden_dim, encoder.num_prefix_tokens
    prefix = np.zeros((num_prefix, dim), np.float32)
    grid = np.zeros((rows, columns, dim), np.float32)
    if encoder.posemb == "learned":
        prefix, grid = model.params.get(_PREFIX, prefix), model.params[_GRID]
    elif encoder.posemb == "sincos2d":
        grid = np.asarray(posemb.sincos2d((rows, columns), dim))
    elif encoder.posemb == "sincos1d":
        table = np.asarray(posemb.sincos1d(num_prefix + rows * columns, dim))
        prefix, grid = table[:num_prefix], table[num_prefix:].reshape(rows, columns, dim)
    params = model.params | {_GRID: grid} | ({_PREFIX: prefix} if num_prefix else {})
    return dataclasses.replace(model, encoder=encoder.clone(posemb="learned", prefix_posemb=True), params=params)
