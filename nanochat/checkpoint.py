"""Save and load a training state so that a reader sees the old one or the new one, never half.

A checkpoint is a folder <base>/checkpoints/<stage>/<tag>/step_000123/ of
    model.safetensors  optimizer.safetensors  meta.json  manifest.json (the SHA-256 of the others)
written under a temporary name, flushed to the disk, then renamed. No pickle anywhere.
Read: save_checkpoint -> find_checkpoint -> load_checkpoint -> load_model.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from nanochat.atomic import sync_folder, write_durably
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import ROOT, checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer

MAKER = {
    "base": "base-train",
    "sft": "chat-sft",
    "rl": "chat-rl",
}  # stage -> the verb that makes it


class CheckpointMissing(UserError):
    """No checkpoint where one was asked for."""


class CheckpointCorrupt(UserError):
    """A file of the checkpoint does not match its checksum, or cannot be read."""


class CheckpointMismatch(UserError):
    """The checkpoint belongs to another tokenizer or another model."""


@dataclass(frozen=True)
class Checkpoint:
    """What load_checkpoint gives back."""

    path: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    meta: dict[str, Any]


# @learn:systems.checkpoints
def save_checkpoint(
    folder: Path,
    step: int,
    model: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    meta: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Write step_<step> in `folder`, atomically; then drop all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    final = folder / f"step_{step:06d}"
    draft = folder / f".writing-{os.getpid()}-{final.name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    files = {
        "model.safetensors": save({k: v.contiguous() for k, v in model.items()}),
        "optimizer.safetensors": save({k: v.contiguous() for k, v in optimizer.items()}),
        "meta.json": json.dumps(meta | {"step": step}).encode(),
    }
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files["manifest.json"] = json.dumps(digests, indent=1).encode()
    try:
        for name, data in files.items():
            write_durably(draft / name, data)
        sync_folder(draft)
        _swap_in(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # a full disk leaves the old checkpoints alone
    sync_folder(folder)
    for old in list_checkpoints(folder)[:-keep]:
        _discard(old)
    return final


def _discard(path: Path) -> None:
    """Delete a checkpoint that is not needed: first its name, so that half of it is never found."""
    doomed = path.with_name(f".writing-discarded-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _swap_in(draft: Path, final: Path) -> None:
    """Rename the finished draft; saving the same step again first moves the old one aside."""
    if final.exists():
        aside = final.with_name(f".replaced-{final.name}")
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
        draft.rename(final)
        shutil.rmtree(aside)
    else:
        draft.rename(final)


def _remove_leftovers(folder: Path) -> None:
    """Clear up after a writer that was killed. Only a writer calls this: readers change nothing."""
    for aside in folder.glob(".replaced-*"):
        final = folder / aside.name.removeprefix(".replaced-")
        if final.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(final)
    for draft in folder.glob(".writing-*"):
        shutil.rmtree(draft)


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first; one moved aside counts while its successor is missing."""
    found = {path.name: path for path in folder.glob(".replaced-step_*")}
    found = {name.removeprefix(".replaced-"): path for name, path in found.items()}
    found |= {path.name: path for path in folder.glob("step_*")}
    return [found[name] for name in sorted(found, key=_step_of)]


def _step_of(name: str) -> int:
    return int(name.rpartition("_")[2])


def find_checkpoint(stage: str, tag: str | None = None, step: int | None = None) -> Path:
    """The newest checkpoint of a stage; without a tag, of the run that was saved last."""
    root = checkpoints_dir(stage, "x").parent
    folders = [root / tag] if tag else sorted(root.glob("*"), key=lambda p: p.stat().st_mtime)
    for folder in reversed(folders):
        found = [p for p in list_checkpoints(folder) if step in (None, _step_of(p.name))]
        if found:
            return found[-1]
    what = f"{stage}{'/' + tag if tag else ''}{f' at step {step}' if step is not None else ''}"
    raise CheckpointMissing(
        f"no checkpoint {what} in {root}; make one with `nanochat {MAKER.get(stage, 'base-train')}`"
    )


def load_checkpoint(path: Path, with_optimizer: bool = True) -> Checkpoint:
    """Read one checkpoint folder, checking every file against the manifest."""
    names = ["model.safetensors", "meta.json"] + ["optimizer.safetensors"] * with_optimizer
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for name in names:
            with open(path / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != manifest[name]:
                raise CheckpointCorrupt(f"{path / name} does not match its checksum{_remedy(path)}")
        return Checkpoint(
            path=path,
            model=load_file(path / "model.safetensors"),
            optimizer=load_file(path / "optimizer.safetensors") if with_optimizer else {},
            meta=json.loads((path / "meta.json").read_text(encoding="utf-8")),
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointCorrupt(f"{path} cannot be read ({error}){_remedy(path)}") from error


def _remedy(path: Path) -> str:
    others = [p.name for p in list_checkpoints(path.parent) if p != path]
    verb = MAKER.get(path.parent.parent.name, "base-train")
    instead = f"to fall back on {others[-1]}" if others else f"and run `nanochat {verb}`"
    return f"; delete it {instead}"


def load_model(
    stage: str = "sft",
    tag: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    step: int | None = None,
) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """The newest model of a stage, ready to talk, with the tokenizer it was trained with."""
    checkpoint = load_checkpoint(find_checkpoint(stage, tag, step), with_optimizer=False)
    tokenizer = Tokenizer.load(tokenizer_dir())
    check_tokenizer(checkpoint.meta, tokenizer)
    model = build_model(checkpoint, dtype)
    return model.to(device).eval(), tokenizer, checkpoint.meta


def check_tokenizer(meta: dict[str, Any], tokenizer: Tokenizer) -> None:
    """A model speaks only the vocabulary it was trained with."""
    if meta["tokenizer"] != tokenizer.fingerprint():
        raise CheckpointMismatch(
            f"the checkpoint was trained with tokenizer {meta['tokenizer'][:12]}, the folder "
            f"{tokenizer_dir()} holds {tokenizer.fingerprint()[:12]}; bring back that tokenizer or "
            "train again with `make build`"
        )


def build_model(checkpoint: Checkpoint, dtype: torch.dtype) -> GPT:
    """A model of the saved shape with the saved weights."""
    model = GPT(GPTConfig(**checkpoint.meta["model"]), dtype)
    model.load_state_dict(checkpoint.model)
    return model


def provenance(config: GPTConfig, settings: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    """What every checkpoint says about its origin: sizes, flags, code, versions, vocabulary."""
    return {
        "model": asdict(config),
        "settings": asdict(settings),
        "tokenizer": tokenizer.fingerprint(),
        "commit": git_commit(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
    }


def git_commit() -> str:
    """The commit of the running code, with a + when files differ from it; "unknown" without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def tensor_names(path: Path) -> list[str]:
    """Names in a checkpoint's model file, without loading it."""
    with safe_open(path / "model.safetensors", framework="pt") as file:
        return list(file.keys())
