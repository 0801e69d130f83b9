"""A trace: named tensors in the order in which they were computed, and the file that holds them.

The file is safetensors (`pip install 'minqwen[hf]'`), or .npz where the name ends so. Beside the
tensors it has, as JSON under these names in its metadata:

    order      the names, in the order of the computation
    axes       the letters of the axes of each, "B H T Dh"
    config     of the model
    versions   of minqwen, NumPy, Python, and of what else computed
    notes      what is left out, and why

A file of somebody else needs none of this: its tensors are then taken in the order of ours.
"""

from __future__ import annotations

import importlib
import io
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...backend import Array, to_numpy
from ...model.atomic_folder import write_whole
from ...model.checkpoint import named_dtype, read_npz
from ...model.config import QwenConfig

METADATA = "__metadata__"  # what an .npz file calls it
ENDINGS = (".safetensors", ".npz")


class Trace:
    """Named tensors in the order of the computation; `t[name]`, `for name in t`, `len(t)`.

    >>> t = Trace()
    >>> t.add("q", "B T", np.zeros((2, 3)))
    >>> t["q"].shape, t.axes["q"], list(t)
    ((2, 3), 'B T', ['q'])
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Array] = {}
        self.axes: dict[str, str] = {}
        self.notes: list[str] = []
        self.config: dict[str, Any] | None = None
        self.more: dict[str, Any] = {}  # other facts: prompt, loss
        self.versions = {
            "minqwen": str(importlib.import_module(__name__.partition(".")[0]).__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
        self.ordered = True  # whether the order is that of the computation

    def add(self, name: str, axes: str, value: Any) -> None:
        """Append a tensor; a name that is taken is an error of ours."""
        if name in self.tensors:
            raise ValueError(f"{name} is recorded twice")
        self.tensors[name] = to_numpy(value)
        self.axes[name] = axes

    def note(self, text: str) -> None:
        """Remember what a reader should know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def describe(self, config: QwenConfig) -> None:
        """Remember the config of the model."""
        self.config = config.to_dict()

    def __getitem__(self, name: str) -> Array:
        """Return a tensor."""
        return self.tensors[name]

    def __contains__(self, name: object) -> bool:
        """Say whether there is such a tensor."""
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        """Walk over the names."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self.tensors)

    def metadata(self) -> dict[str, str]:
        """Return what stands beside the tensors, each as JSON."""
        facts = {
            "order": list(self.tensors),
            "axes": self.axes,
            "config": self.config,
            "versions": self.versions,
            "notes": self.notes,
            **self.more,
        }
        return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            ValueError: the name does not end as one of the two formats does.
            ImportError: the name does not end in .npz and safetensors is missing; the pip line.
            ValueError: .npz cannot hold bfloat16.
            OSError: the file cannot be written.
        """
        path = Path(path)
        require_ending(path)
        tensors = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
        for name, value in self.tensors.items():
            tensors[name] = tensors[name].reshape(value.shape)  # a single number keeps its shape ()
        if path.suffix == ".npz":
            if any(value.dtype.name == "bfloat16" for value in tensors.values()):
                raise ValueError(
                    ".npz files cannot hold bfloat16; let the name end in .safetensors"
                )
            stream = io.BytesIO()
            tensors[METADATA] = np.array(json.dumps(self.metadata(), ensure_ascii=False))
            np.savez(stream, **tensors)  # type: ignore[arg-type]
            data = stream.getvalue()
        else:
            data = require_safetensors().numpy.save(tensors, metadata=self.metadata())
        try:
            write_whole(path, data)
        except BaseException:
            path.with_name(path.name + ".part").unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a file of tensors, ours or anybody's.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is neither safetensors nor .npz, or corrupt; the message names it.
            ImportError: safetensors, or ml_dtypes for bfloat16, is missing; with the pip line.
        """
        path = Path(path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder; a trace is one file")
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        if path.suffix == ".npz":
            tensors = read_npz(path)
            facts = _json(str(tensors.pop(METADATA, "{}")))
            if not isinstance(facts, dict):
                raise ValueError(f"{path}: its metadata is damaged")
        else:
            tensors, facts = read_safetensors(path)
        found = cls()
        other = {name: x.dtype for name, x in tensors.items() if not holds_numbers(x)}
        tensors = {name: x for name, x in tensors.items() if name not in other}
        facts = {name: value for name, text in facts.items() if (value := _json(text)) is not None}
        order = facts.pop("order", None)
        if isinstance(order, list):
            order = [name for name in order if name not in other]
        found.ordered = isinstance(order, list) and set(order) == set(tensors)
        if not found.ordered:
            order = list(tensors)
        found.tensors = {name: tensors[name] for name in order}
        axes = facts.pop("axes", None)
        axes = axes if isinstance(axes, dict) else {}
        found.axes = {name: str(axes.get(name, "")) for name in found.tensors}
        config, notes, versions = (facts.pop(n, None) for n in ("config", "notes", "versions"))
        found.config = config if isinstance(config, dict) else None
        found.notes = [str(note) for note in notes] if isinstance(notes, list) else []
        for name, dtype in other.items():
            found.note(f"{name} is left out: its dtype is {dtype}, not real numbers")
        found.versions = versions if isinstance(versions, dict) else {}
        found.more = facts
        return found


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the tensors of a safetensors file, in the order of the file, and its metadata.

    Raises:
        ValueError: it is corrupt, cut off, or something else.
        ImportError: safetensors, or ml_dtypes for bfloat16, is missing; with the pip line.
    """
    safetensors = require_safetensors()
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = list(file.offset_keys() if hasattr(file, "offset_keys") else file.keys())
            if any(file.get_slice(name).get_dtype() == "BF16" for name in names):
                named_dtype("bfloat16")  # NumPy learns of bfloat16 by this import
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        kind = "is no safetensors file, or is cut off"
        if path.suffix not in ENDINGS:
            kind = f"is no safetensors file; a file of tensors ends in {' or '.join(ENDINGS)}"
        raise ValueError(f"{path} {kind}: {error}") from None


def require_ending(path: Path) -> None:
    """Raise ValueError unless the name says which format the file has.

    >>> require_ending(Path("ours.npz"))
    """
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path} must end in {' or '.join(ENDINGS)}: these are the formats")


def holds_numbers(x: Array) -> bool:
    """Say whether an array holds real numbers: those of ml_dtypes (bfloat16) too.

    >>> holds_numbers(np.zeros(2)), holds_numbers(np.array(["a"])), holds_numbers(np.array([1j]))
    (True, False, False)
    """
    return x.dtype.kind in "biuf" or "float" in x.dtype.name


def require_safetensors() -> Any:
    """Import safetensors; ImportError with the pip line if it is missing."""
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "safetensors is missing: pip install 'minqwen[hf]', or let the file end in .npz"
        ) from None
    return safetensors


def _json(text: Any) -> Any:
    """Return what a text of JSON says, None for any other text: others keep other things there."""
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return None
