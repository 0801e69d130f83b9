"""Checkpoints: a folder with config.json and the weights, as Hugging Face lays it out.

    config.json                    sizes and switches
    model.safetensors              all weights, or
    model-0000i-of-0000n.safetensors + model.safetensors.index.json      weights in parts, or
    model.npz                      written by us where the package `safetensors` is missing
    tokenizer.json                 if a tokenizer was given

safetensors files are mapped into memory and read tensor by tensor. Names and shapes are compared
with the config before any weight is read. Experts are stored one by one, see expert_files.py.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..backend import Array, to_numpy
from ..params import Params
from .atomic_folder import new_folder, whole
from .config import QwenConfig, check_params, param_shapes
from .expert_files import split_experts, stack_experts
from .qwen1 import Stored, rename_qwen1

SINGLE, INDEX, NPZ = "model.safetensors", "model.safetensors.index.json", "model.npz"
NOT_PARAMETERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|masked_bias|attn\.bias)$")
WEIGHTS = re.compile(r"config\.json|model.*\.safetensors(\.index\.json)?|model\.npz")
BESIDE = re.compile(  # what may stand beside them; a folder with anything else is not replaced
    r"(generation_config|tokenizer|tokenizer_config|special_tokens_map|vocab|added_tokens)\.json"
    r"|merges\.txt|qwen\.tiktoken"
)


class SavesItself(Protocol):
    """What save_checkpoint wants of a tokenizer."""

    def save_pretrained(self, folder: str | Path) -> Any:
        """Write itself into the folder."""


def load_checkpoint(folder: str | Path, dtype: str | None = "float32") -> tuple[QwenConfig, Params]:
    """Read a checkpoint folder, from Hugging Face or from save_checkpoint.

    Args:
        folder: holds config.json and the weights.
        dtype: of the parameters: "float32", "float64", "float16", "bfloat16"; None keeps what is
            stored.

    Returns:
        config: what config.json says.
        params: on the host, with the names of param_shapes(config).

    Raises:
        FileNotFoundError: the folder, config.json, the weights, or a part of them is missing.
        ValueError: a file is corrupt or cut off, or names and shapes do not fit the config; the
            message lists up to ten names of each kind.
        NotImplementedError: the config asks for something this version does not compute.
        ImportError: safetensors (or ml_dtypes, for bfloat16) is not installed; with the pip line.
    """
    folder = whole(Path(folder))
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder {folder}")
    config = QwenConfig.from_pretrained(folder)
    to_dtype = None if dtype is None else named_dtype(dtype)
    if unsupported := config.unsupported():
        raise NotImplementedError(f"{folder}: not supported yet: {', '.join(unsupported)}")
    stored = {k: v for k, v in list_tensors(folder).items() if not NOT_PARAMETERS.search(k)}
    if any(name.startswith("transformer.") for name in stored):
        heads = config.num_attention_heads, config.num_key_value_heads
        stored = rename_qwen1(stored, *(n * config.head_dim for n in heads))
    if config.tie_word_embeddings:
        stored.pop("lm_head.weight", None)  # some files hold the embedding twice
    try:
        stored = stack_experts(stored, config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    check_params(stored, config, where=f"{folder}: the weights")
    params = {}
    for name in param_shapes(config):
        value = stored[name].read()
        params[name] = value if to_dtype is None else value.astype(to_dtype, copy=False)
    return config, params


def save_checkpoint(
    folder: str | Path,
    config: QwenConfig,
    params: Params,
    *,
    tokenizer: SavesItself | None = None,
    dtype: str | None = None,
    file_format: str | None = None,
) -> None:
    """Write a folder that load_checkpoint reads and, as safetensors, transformers opens too.

    transformers passes over the fields that it does not have, see QwenConfig.to_dict.

    An existing checkpoint folder is replaced as a whole, see atomic_folder: a crash leaves the old
    one or the new one. Without a tokenizer, that of the old folder is kept.

    Args:
        folder: where to. Parents are made.
        config: sizes; written as config.json.
        params: arrays on any device.
        tokenizer: saved beside the weights, when given.
        dtype: store the weights in this dtype; None keeps theirs.
        file_format: "safetensors", or "npz" (float32 and wider, read by us only). None takes
            safetensors if the package is there.

    Raises:
        ValueError: params do not fit the config, or the format is unknown or cannot hold the dtype.
        FileExistsError: the folder holds files that are not part of a checkpoint.
        OSError: it could not be written; what was there stands.
        ImportError: file_format is "safetensors" and the package is missing; with the pip line.
    """
    folder = Path(folder).absolute()
    require_replaceable(folder)
    to_be_stored = prepare_tensors(config, params, dtype, file_format)
    with new_folder(folder) as new:
        write_checkpoint(new, config, to_be_stored)
        if tokenizer is not None:
            tokenizer.save_pretrained(new)
        elif folder.is_dir():  # what was beside the weights stays beside them
            for path in folder.iterdir():
                if BESIDE.fullmatch(path.name):
                    shutil.copy2(path, new / path.name)


def require_replaceable(folder: Path) -> None:
    """Raise FileExistsError unless save_checkpoint may put a checkpoint here: see there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file")
    names = sorted(p.name for p in folder.iterdir())
    foreign = [n for n in names if not (WEIGHTS.fullmatch(n) or BESIDE.fullmatch(n))]
    if foreign:
        raise FileExistsError(
            f"{folder} holds files that are not part of a checkpoint ({foreign[0]}); "
            "choose another folder"
        )


class ToBeStored(NamedTuple):
    """Tensors on the host, in the dtype and for the format of the file."""

    tensors: dict[str, Any]
    dtype: str
    file_format: str


def prepare_tensors(
    config: QwenConfig, params: Params, dtype: str | None = None, file_format: str | None = None
) -> ToBeStored:
    """Check everything that can be checked before a file is touched; see save_checkpoint."""
    check_params(params, config)
    if file_format not in (None, "safetensors", "npz"):
        raise ValueError(f'file_format must be "safetensors" or "npz", got {file_format!r}')
    if file_format is None:
        file_format = "safetensors" if _has_safetensors() else "npz"
    if file_format == "safetensors":
        _safetensors()
    tensors = split_experts({name: to_numpy(value) for name, value in params.items()})
    if dtype is not None:
        to_dtype = named_dtype(dtype)
        tensors = {name: value.astype(to_dtype, copy=False) for name, value in tensors.items()}
    stored_as = next(iter(tensors.values())).dtype.name
    if file_format == "npz" and stored_as == "bfloat16":
        raise ValueError('.npz files cannot hold bfloat16; use file_format="safetensors"')
    return ToBeStored(tensors, stored_as, file_format)


def write_checkpoint(folder: Path, config: QwenConfig, stored: ToBeStored) -> None:
    """Write config.json and the weights into an empty folder that nobody reads yet.

    Raises:
        OSError: the disk is full, or will not take the file; also where the package safetensors
            reports it as an error of its own.
    """
    text = json.dumps({**config.to_dict(), "torch_dtype": stored.dtype}, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    if stored.file_format == "safetensors":
        ordered = {name: np.ascontiguousarray(value) for name, value in stored.tensors.items()}
        safetensors = _safetensors()
        try:
            safetensors.numpy.save_file(ordered, folder / SINGLE, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise _of_the_disk(error, folder / SINGLE) from None
        shutil.copymode(folder / "config.json", folder / SINGLE)  # it makes the file private
    else:
        np.savez(folder / NPZ, **stored.tensors)


def _of_the_disk(error: Exception, path: Path) -> Exception:
    """Return what safetensors says of a disk as the OSError that it is, anything else as it came.

    >>> _of_the_disk(ValueError("I/O error: No space left on device (os error 28)"), Path("w"))
    OSError(28, 'No space left on device')
    """
    new = r"(?:I/O error: )?(?P<why>[^:]*) \(os error (?P<number>\d+)\)"
    old = r'code: (?P<number>\d+), .*message: "(?P<why>[^"]*)"'  # of older versions
    found = re.search(new, str(error)) or re.search(old, str(error))
    if found is None:
        return error
    return OSError(int(found["number"]), found["why"].strip(), str(path))


def list_tensors(folder: Path) -> dict[str, Stored]:
    """Return every tensor in the weight files of a folder, not yet read.

    Raises:
        FileNotFoundError: there are no weights, or a part is missing.
        ValueError: a file is corrupt.
    """
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            parts = sorted({str(part) for part in weight_map.values()})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{folder / INDEX} is not an index of weights") from None
        missing = [part for part in parts if not (folder / part).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder}: of {len(parts)} parts {missing[0]} is missing")
        tensors: dict[str, Stored] = {}
        for part in parts:
            tensors.update(_safetensors_tensors(folder / part))
        return tensors
    if (folder / SINGLE).is_file():
        return _safetensors_tensors(folder / SINGLE)
    if (folder / NPZ).is_file():
        return _npz_tensors(folder / NPZ)
    if any(folder.glob("*.bin")):
        raise FileNotFoundError(f"{folder} has weights as .bin only; convert them to safetensors")
    raise FileNotFoundError(f"{folder} has no weights: no {SINGLE}, {INDEX} or {NPZ}")


def _safetensors_tensors(path: Path) -> dict[str, Stored]:
    safetensors = _safetensors()
    try:
        file = safetensors.safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is corrupt or cut off: {error}") from None
    names = list(file.keys())
    slices = {name: file.get_slice(name) for name in names}
    if any(part.get_dtype() == "BF16" for part in slices.values()):
        named_dtype("bfloat16")  # NumPy learns of bfloat16 by this import
    return {
        name: Stored(tuple(slices[name].get_shape()), lambda name=name: file.get_tensor(name))  # type: ignore[misc]
        for name in names
    }


def _npz_tensors(path: Path) -> dict[str, Stored]:
    arrays = read_npz(path)
    return {name: Stored(a.shape, lambda a=a: a) for name, a in arrays.items()}  # type: ignore[misc]


def read_npz(path: Path) -> dict[str, Array]:
    """Read every array of an .npz file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is corrupt or cut off.
    """
    with path.open("rb") as stream:
        try:
            with np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except MemoryError:
            raise
        except Exception as error:  # of damaged bytes, zipfile and NumPy make errors of many kinds
            raise ValueError(f"{path} is corrupt or cut off: {error}") from None


def named_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype of this name; bfloat16 comes from the package ml_dtypes.

    >>> named_dtype("float32")
    dtype('float32')
    """
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError("bfloat16 needs ml_dtypes: pip install 'minqwen[hf]'") from None
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if name not in ("float16", "float32", "float64"):
        raise ValueError(f"dtype must be float16, bfloat16, float32 or float64, got {name!r}")
    return np.dtype(name)


def _has_safetensors() -> bool:
    try:
        _safetensors()
    except ImportError:
        return False
    return True


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError("this needs the package safetensors: pip install 'minqwen[hf]'") from None
    return safetensors
