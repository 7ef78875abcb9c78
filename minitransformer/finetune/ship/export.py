"""A model for other programs: ONNX, torch's own exported program, or a plain checkpoint. Checked before it counts."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from minitransformer.errors import CorruptFileError, DependencyError, InputError, NotFoundError, StorageError
from minitransformer.finetune.ship.trace import Inputs, input_names, logits_of, output_names, sample, traced
from minitransformer.loading import load
from minitransformer.pretrained import Pretrained
from minitransformer.storage import atomic_folder

FORMS = ("onnx", "torch", "safetensors")
TOLERANCE = 1e-4  # times the largest logit: what float32 leaves open between two programs
ONE_FILE = 2**31 - 2**26  # bytes: protobuf, in which ONNX is written, holds no more than 2 GiB
SHAPES = ((1, 1), (2, 5), (3, 11))  # batch and length, or batch alone: none is what was traced but for the second

Answer = Callable[[Inputs], dict[str, Tensor]]


@dataclass(frozen=True)
class Exported:
    """What was written, how it is called, and how far its numbers are from the model's."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_difference: float


def export(name: str | PathLike[str], out: str | PathLike[str], *, to: str = "onnx") -> Exported:
    """Write the model `name` for other programs: "onnx" or "torch" to the file `out`, "safetensors" to a folder.

    Batch and lengths stay free; the inputs are those that the tokenizer gives. The written file is read back and run on
    batches of several shapes, with padding, and appears only if it answers as the model does. ONNX needs the extra
    `export`. Weights above 2 GiB are written beside it, into `out` + ".data". Raises a CorruptFileError if the answers
    differ.
    """
    if to not in FORMS:
        raise InputError(f"to: got {to!r}, expected one of {', '.join(FORMS)}")
    target = Path(out)
    if to == "onnx":
        _check_installed()
    if to != "safetensors":
        _check_place(target)
    model = load(name).eval()
    inputs, outputs = input_names(model.transformer.config), output_names(model.transformer.config)
    if to == "safetensors":
        with atomic_folder(target) as staging:
            model.write(staging)
            return Exported(target, inputs, outputs, check(model, _folder(staging, inputs), target))
    write = _write_onnx if to == "onnx" else _write_torch
    with _new_files(target) as staging:
        answer = write(model, staging / target.name)
        return Exported(target, inputs, outputs, check(model, answer, target))


def check(model: Pretrained, answer: Answer, target: Path) -> float:
    """The largest difference between the model's answers and those of what was written; a CorruptFileError for much."""
    largest, generator = 0.0, torch.Generator().manual_seed(0)
    for shape in SHAPES:
        batch = sample(model.transformer.config, *shape, generator=generator)
        expected, found = logits_of(model.transformer, batch), answer(batch)
        real = batch.get("decoder_input_ids", batch.get("attention_mask"))
        padded = None if real is None or "decoder_input_ids" in batch else real == 0  # a text's places [B T]
        for name, wanted in expected.items():
            difference = (found[name] - wanted).abs()
            if padded is not None and wanted.shape[: padded.ndim] == padded.shape:
                difference[padded] = 0  # nobody reads what stands for padding
            limit = TOLERANCE * max(1.0, wanted.abs().max().item())
            if not difference.max().item() <= limit:
                raise CorruptFileError(
                    f"{target}: not written: {name} differ from the model's by {difference.max().item():.2g} for a "
                    f"batch of {len(wanted)}, expected at most {limit:.2g}; try another form: --to "
                    f"{' or '.join(FORMS)}"
                )
            largest = max(largest, difference.max().item())
    return largest


def _write_onnx(model: Pretrained, path: Path) -> Answer:
    """Write an ONNX file. Returns what runs it."""
    import onnxruntime  # type: ignore[import-untyped]

    config = model.transformer.config
    names, outputs = input_names(config), output_names(config)
    graph = traced(model.transformer)
    with warnings.catch_warnings(action="ignore"):  # what torch says of itself
        program = torch.onnx.export(graph, (), input_names=names, output_names=outputs, dynamo=True, verbose=False)
    if program is None:  # never, with dynamo=True
        raise CorruptFileError(f"{path.name}: torch gave no program")
    size = sum(x.numel() * x.element_size() for x in model.transformer.state_dict().values())
    program.save(str(path), external_data=size > ONE_FILE)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def answer(batch: Inputs) -> dict[str, Tensor]:
        found = session.run(list(outputs), {name: x.numpy() for name, x in batch.items()})
        return {name: torch.from_numpy(x) for name, x in zip(outputs, found, strict=True)}

    return answer


def _write_torch(model: Pretrained, path: Path) -> Answer:
    """Write a torch.export program. Returns what runs it."""
    outputs = output_names(model.transformer.config)
    graph = traced(model.transformer)
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(graph, path)
        module = torch.export.load(path).module()

    def answer(batch: Inputs) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(zip(outputs, module(*batch.values()), strict=True))

    return answer


def _folder(folder: Path, inputs: tuple[str, ...]) -> Answer:
    """What runs the model that was written into a folder."""
    again = load(folder).eval()
    return lambda batch: logits_of(again.transformer, {name: batch[name] for name in inputs})


@contextmanager
def _new_files(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`; what is in it when the block ends well is renamed into the target's folder.

    The file of the target's own name comes last: it leads to the others.
    """
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield staging
            for path in sorted(staging.iterdir(), key=lambda path: path.name == target.name):
                os.replace(path, target.parent / path.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        if isinstance(error, NotFoundError):
            raise
        raise StorageError(
            f"{target}: cannot be written: {error.strerror or error}; check free space and permissions"
        ) from error


def _check_place(target: Path) -> None:
    """Raise before the work if there can be no file of this name."""
    if not target.name or target.is_dir():
        raise InputError(f"out: got {str(target)!r}, expected the name of a file, such as model.onnx")
    if not target.absolute().parent.is_dir():
        raise NotFoundError(f"{target}: there is no folder {target.parent}; create it first")


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"export to onnx needs the package {error.name}; pip install 'minitransformer[export]'"
        ) from error
