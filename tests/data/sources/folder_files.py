"""Folders of small images for tests."""

import pathlib

from PIL import Image


def add(root: pathlib.Path, *names: str, level: int = 100) -> pathlib.Path:
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "jpeg"}.get(path.suffix[1:].lower(), path.suffix[1:].lower())
        Image.new("L", (8, 8), level).save(path, kind)
    return root


def numbered(name: str, count: int) -> list[str]:
    return [f"{name}/{i}.png" for i in range(count)]
