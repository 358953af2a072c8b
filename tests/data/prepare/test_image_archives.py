"""Archives of a folder of images: read by the folder's rules, with care for what strangers put into them."""

import gzip
import io
import os
import pathlib
import stat
import struct
import tarfile
import zipfile

import pytest
from archive_files import encoded, nothing_left, random

from vit_jax.data.prepare import image_archives, prepare
from vit_jax.data.prepare.image_archives import read_archive
from vit_jax.data.prepare.tar_members import open_tar_of_images
from vit_jax.data.prepare.zip_members import open_zip_of_images
from vit_jax.data.sources import folder
from vit_jax.errors import InputError

IMAGE = encoded(random(8, 8, 3))


def packed(path: pathlib.Path, files: dict[str, bytes | str | None], **options) -> pathlib.Path:
    """An archive: contents, None for a folder, or a text for a symbolic link."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
            for name, data in files.items():
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.create_system = 3
                info.external_attr = (stat.S_IFLNK if isinstance(data, str) else 0) << 16
                archive.writestr(info, data or b"")
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            if data is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
            else:
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def listed(path: pathlib.Path, **options):
    """Name of the classes, and split -> name of each image -> its class."""
    is_zip = path.suffix == ".zip"
    archive = open_zip_of_images(path) if is_zip else open_tar_of_images(path, path.parent)
    contents = read_archive(archive, eval_fraction=0.3, **options)
    splits = {}
    for split, examples in contents.splits.items():
        records = [examples.records[i] for i in range(len(examples))]
        assert all(record["image"] == IMAGE for record in records) and [*examples.sizes] == [len(IMAGE)] * len(records)
        splits[split] = {each["path"].partition(": ")[2]: contents.class_names[each["label"]] for each in records}
    return contents.class_names, splits


RUBBISH = [
    *("a/.x.png", "a/._1.png", "a/.DS_Store", "a/Thumbs.db", "@eaDir/a.png", "a/@eaDir/1.png", "__MACOSX/a/._1.png"),
    *(".ipynb_checkpoints/1.png", "b/.ipynb_checkpoints/1.png", "#recycle/1.png", "desktop.ini", ".hidden/a/1.png"),
]
LAYOUTS = [
    [f"{name}/{i}.png" for name in "ab" for i in range(9)],
    ["train/a/1.png", "train/b/x/2.png", "Validation/b/3.png"],
    ["train/a/1.png", "train/b/2.png", "dev/b/3.png", "test_set/a/4.png"],
    [f"train/{name}/{i}.png" for name in "ab" for i in range(5)],
    ["test/a/1.png", "test/b/2.png"],
    ["caf\u00e9/1.png", "cafe/1.png", "\u732b/1.png"],
]
REFUSED = [
    ["train/a/1.png", "train/b/1.png", "test/a/1.png", "extra/a/1.png"],
    ["train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/b/1.png"],
    ["train/a/1.png", "train/b/1.png", "test/c/1.png"],
    ["a/1.png", "b/1.png", "1.png"],
    ["a/1.png", "b/1.png", "c/"],
    ["a/1.txt", "b/"],
    ["a/1.png"],
    ["caf\u00e9/1.png", "cafe\u0301/1.png"],
    ["images/1.png", "masks/1.png", "classes.txt"],
    ["a/train/1.png", "a/test/1.png", "b/train/1.png"],
]


def laid_out(root, names):
    for name in names:
        path = root / name
        path.mkdir(parents=True) if name.endswith("/") else path.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(IMAGE if name.endswith("png") else b"a\nb")
    return root


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("wrapper", ["", "pets/", "pets/data/"])
@pytest.mark.parametrize("names", LAYOUTS)
def test_an_archive_holds_what_its_folder_does(names, wrapper, kind, tmp_path):
    images = folder.open_folder(str(laid_out(tmp_path / "root", names)), eval_fraction=0.3)
    class_names = images.fields["label"].names
    expected = {
        split: {path: class_names[label] for path, label in zip(files.paths, files.labels, strict=True)}
        for split, files in images.splits.items()
    }
    files = {f"{wrapper}{name}": IMAGE for name in [*names, *RUBBISH]}
    found, splits = listed(packed(tmp_path / f"x.{kind}", files))
    prefix = wrapper + ("train/" if names[0].startswith("train/") and "train/b/4.png" in names else "")
    assert found == class_names
    assert {split: {p.removeprefix(prefix): c for p, c in each.items()} for split, each in splits.items()} == expected


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("names", REFUSED)
def test_an_archive_is_refused_for_what_its_folder_is(names, kind, tmp_path):
    root = laid_out(tmp_path / "root", names)
    with pytest.raises(InputError) as of_folder:  # of masks when it is prepared
        prepare.prepare("pets", str(root), str(tmp_path / "out"))
    files = {name: None if name.endswith("/") else (root / name).read_bytes() for name in names}
    archive = packed(tmp_path / f"x.{kind}", files)
    with pytest.raises(InputError) as of_archive:
        prepare.prepare("pets", str(archive), str(tmp_path / "out"))
    assert nothing_left(tmp_path / "out")
    texts = [str(error.value).partition("usable: ")[2] for error in (of_folder, of_archive)]
    same = [text.replace(f"{archive}: ", f"{root}/").replace(str(archive), str(root)) for text in texts]
    assert same[0].split(";")[0] == same[1].split(";")[0]


UNSAFE = ["../a/1.png", "/a/1.png", "a/../../1.png", "a/../../../etc/1.png"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("tar", "zip") for name in UNSAFE] + [("zip", "..\\a\\1.png"), ("zip", "C:\\a\\1.png")],
)
def test_paths_that_leave_the_archive(kind, name, tmp_path):
    with pytest.raises(InputError, match=r"the path of member .* leaves the folder"):
        listed(packed(tmp_path / f"x.{kind}", {"a/1.png": IMAGE, "b/1.png": IMAGE, name: IMAGE}))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_links_in_an_archive(kind, tmp_path):
    files = {"a/1.png": IMAGE, "b/1.png": IMAGE, "b/2.png": "../a/1.png", "b/3.png": "2.png", "x.txt": "/etc/passwd"}
    splits = listed(packed(tmp_path / f"x.{kind}", files))[1]
    assert splits["train"] | splits["test"] == {"a/1.png": "a", "b/1.png": "b", "b/2.png": "b", "b/3.png": "b"}
    for target in ("/etc/passwd", "../../1.png", "../c/9.png", "4.png", "../a"):
        with pytest.raises(
            InputError, match=r"x\.\w+: b/4.png is a link to .*, which is no file in it; valid: the file"
        ):
            listed(packed(tmp_path / f"x.{kind}", {**files, "b/4.png": target}))
    with pytest.raises(InputError, match="c is a link to a, which is no file in it"):
        listed(packed(tmp_path / f"x.{kind}", {**files, "c": "a"}))


def test_hard_links_pipes_and_members_that_come_twice_in_a_tar(tmp_path):
    path = packed(tmp_path / "x.tar", {"a/1.png": b"old", "b/1.png": IMAGE, "./a/1.png": IMAGE})
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("a/2.png")
        member.type, member.linkname = tarfile.LNKTYPE, "a/1.png"
        archive.addfile(member)
    found = listed(path)[1]
    assert sorted([*found["train"], *found["test"]]) == ["a/1.png", "a/2.png", "b/1.png"]
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("a/3.png")
        member.type = tarfile.FIFOTYPE
        archive.addfile(member)
    with pytest.raises(InputError, match=r"a/3.png is no regular file"):
        listed(path)


def test_names_in_a_zip(tmp_path):
    """Marked as UTF-8; UTF-8 that is not marked; code page 437; and backslashes."""
    path = packed(tmp_path / "x.zip", {"caf\u00e9/1.png": IMAGE, "tea/1.png": IMAGE})
    assert listed(path)[0] == ("caf\u00e9", "tea")
    marked = path.read_bytes()
    utf8 = "caf\u00e9".encode()
    path.write_bytes(marked.replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00"))  # the flag, before the method
    assert path.read_bytes() != marked and listed(path)[0] == ("caf\u00e9", "tea")
    path = packed(tmp_path / "x.zip", {"cafe_/1.png": IMAGE, "tea/1.png": IMAGE})
    path.write_bytes(path.read_bytes().replace(b"cafe_", b"caf\x82_"))
    assert listed(path)[0] == ("caf\u00e9_", "tea") and utf8 != b"caf\x82"
    path = packed(tmp_path / "x.zip", {"a\\1.png": IMAGE, "b\\1.png": IMAGE})
    assert listed(path)[1]["train"] == {"a/1.png": "a", "b/1.png": "b"}


def test_damaged_encrypted_and_unknown_members_of_a_zip(tmp_path):
    files = {f"{name}/{i}.png": IMAGE for name in "ab" for i in range(2)}
    whole = packed(tmp_path / "x.zip", files).read_bytes()

    def refused(content, match):
        (tmp_path / "x.zip").write_bytes(content)
        with pytest.raises(InputError, match=match):
            prepare.prepare("pets", str(tmp_path / "x.zip"), str(tmp_path / "out"))
        assert nothing_left(tmp_path / "out")

    start = whole.rindex(b"PK\x01\x02")  # of the last member in the directory: flags, method
    refused(whole[:-100], r"x.zip is damaged or cut off")
    refused(whole[:200] + b"\x00" * 50 + whole[250:], r"x.zip: \w/\d.png cannot be read")
    encrypted = whole[: start + 8] + b"\x01" + whole[start + 9 :]
    refused(encrypted, "x.zip: b/1.png is encrypted; valid: an archive without a password")
    unknown = whole[: start + 10] + struct.pack("<H", 98) + whole[start + 12 :]
    refused(unknown, "b/1.png is packed by method 98; valid: stored, deflate, bzip2 or lzma")


def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(image_archives, "FREE_BYTES", 2**20)
    path = packed(tmp_path / "x.zip", {"a/1.png": bytes(2**22), "b/1.png": IMAGE})
    with pytest.raises(
        InputError, match=r"x.zip: a/1.png has [\d,]+ bytes and unpacks to 4,194,304 or more; valid: at"
    ):
        listed(path)
    path = packed(tmp_path / "x.zip", {f"a/{i}.png": bytes(2**20) for i in range(9)})  # each of them would do
    with pytest.raises(InputError, match=r"x.zip has [\d,]+ bytes and unpacks to [\d,]+ or more"):
        listed(path)
    (tmp_path / "x.tgz").write_bytes(gzip.compress(bytes(2**23)))
    with pytest.raises(InputError, match=r"x.tgz has [\d,]+ bytes and unpacks to [\d,]+ or more; valid: at most 100"):
        listed(tmp_path / "x.tgz")


def test_a_zip_with_64_bit_sizes(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/1.png", "b/1.png"):
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(IMAGE)
    assert listed(path)[1]["train"] == {"a/1.png": "a", "b/1.png": "b"}
    assert os.path.getsize(path) > 2 * len(IMAGE)
