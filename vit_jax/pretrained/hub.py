"""Files from elsewhere: the Hugging Face hub and URLs, with their caches."""

import os
import pathlib
import time
from collections.abc import Callable

from vit_jax.errors import InputError
from vit_jax.system.paths import expanded

_LATE = ("processor_config.json",)
"""Files that caches filled by other programs, or by older versions, need not know of."""


def download(url: str) -> pathlib.Path:
    """Download a URL's file, unless it is in ~/.cache/vit_jax (or $XDG_CACHE_HOME/vit_jax) already.

    Raises:
        InputError: it cannot be read.
    """
    import fsspec

    cache = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vit_jax"
    try:
        return pathlib.Path(str(fsspec.open_local(f"simplecache::{url}", simplecache={"cache_storage": str(cache)})))
    except ImportError as error:
        raise InputError(f"{url} needs a package that is not installed: {error}") from None
    except Exception as error:  # each file system has its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{url} cannot be read ({reason[0]}); download it elsewhere and give its path") from None


def is_cached(repo: str, revision: str | None) -> bool:
    """Tell whether the cache has a repository's config.json."""
    import huggingface_hub

    return isinstance(huggingface_hub.try_to_load_from_cache(repo, "config.json", revision=revision), str)


def finder(repo: str, revision: str | None, *, valid: str) -> Callable[[str], pathlib.Path | None]:
    """Make a function that gives the local copy of a repository's file, or None if it has none of that name.

    It raises InputError where a file cannot be fetched.

    Args:
        repo: a hub id, `google/vit-base-patch16-224`.
        revision: branch, tag or commit; None is the main branch.
        valid: what may be given as a source, for the message.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    unreachable = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _unreachable(repo, revision)

    def find(file: str) -> pathlib.Path | None:
        try:
            there = huggingface_hub.hf_hub_download(
                repo, file, revision=revision, local_files_only=unreachable is not None
            )
            return pathlib.Path(there)
        except errors.LocalEntryNotFoundError as error:  # first, since it is an EntryNotFoundError too
            cached = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
            if cached is huggingface_hub._CACHED_NO_EXIST:  # the cache knows that the repository lacks it
                return None
            if file in _LATE and unreachable is not None:
                return None
            reason = unreachable or _brief(error.__cause__ or error)
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError:
            reason = "access to it must be asked for on its page, and a token set (`hf auth login`)"
        except errors.RepositoryNotFoundError:
            reason = "there is no such repository, or it is private and no valid token is set (`hf auth login`)"
        except errors.RevisionNotFoundError:
            reason = f"it has no revision {revision!r}"
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            reason = _brief(error)
        where = f"{repo}{f' at {revision}' if revision else ''}"
        raise InputError(
            f"{where} is no folder here, its {file} is not in the cache ({constants.HF_HUB_CACHE}), and it cannot be "
            f"fetched from {constants.ENDPOINT}: {reason}; valid: {valid}; on a machine with access run `hf download "
            f"{repo} --local-dir {repo.split('/')[1]}`, copy that folder, and give its path"
        ) from None

    return find


def _unreachable(repo: str, revision: str | None) -> str | None:
    """Tell why the hub does not answer, after a second try; None if it does, even to say that there is no repository.

    The client itself would try again for half a minute a file, or for several if nothing comes back at all.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        url = huggingface_hub.hf_hub_url(repo, "config.json", revision=revision)
    except errors.HFValidationError:
        return None  # the download says what is wrong with the name
    reason = None
    for attempt in range(2):
        time.sleep(attempt)
        try:
            huggingface_hub.get_hf_file_metadata(url, timeout=10.0)
            return None
        except errors.HfHubHTTPError:
            return None
        except Exception as error:  # each version of the client has its own for a network that is not there
            reason = _brief(error)
    return reason


def _brief(error: BaseException) -> str:
    """Return an error's type and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
