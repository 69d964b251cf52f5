"""What people type who know other programs: the names of options and commands that are meant.

The lists are guesses: a word that is missing gets the message that any unknown word gets.
"""

from __future__ import annotations

from collections.abc import Collection

_OPTIONS = {
    ("--images", "--data", "--labelled"): "input in src source input-dir input-dataset data-dir data-path img image dir"
    " folder path image-folder dataset files data images",
    ("--out",): "output output-dir outdir out-dir output-folder output-path dest destination save save-dir result"
    " embeddings project o",
    ("--device",): "gpu gpus cuda cpu use-gpu use-cuda accelerator mps",
    ("--batch-size", "--set"): "batch bs batchsize b",
    ("--workers",): "num-workers threads jobs j n-jobs num-threads nproc",
    ("--model",): "network net arch architecture weights checkpoint ckpt backbone encoder model-name m",
    ("--precision",): "fp16 half amp bf16 fp32 int8 float16 quantize quantise mixed-precision",
    ("--normalize",): "normalise l2 l2-normalize norm unit",
    ("--keep",): "columns labels metadata columns-to-keep",
    ("--epochs",): "epoch n-epochs num-epochs",
    ("--set",): "lr learning-rate optimizer weight-decay seed config momentum temperature batch-size",
    ("-k",): "k top-k topk n num neighbours neighbors knn limit",
    ("--licence",): "license",
    ("--max-params",): "params max-size",
    ("--dedupe",): "deduplicate duplicates dedup unique",
    ("--update",): "incremental append refresh sync",
}
_SAID = {
    "recursive": "a folder is read with all folders below it",
    "r": "a folder is read with all folders below it",
    "resume": "the same command continues where it stopped",
    "continue": "the same command continues where it stopped",
    "force": "nothing is overwritten: choose another OUT, or remove the old one",
    "overwrite": "nothing is overwritten: choose another OUT, or remove the old one",
    "f": "nothing is overwritten: choose another OUT, or remove the old one",
    "size": "the model decides the size of the images, see `zoo info`",
    "resize": "the model decides the size of the images, see `zoo info`",
    "image-size": "the model decides the size of the images, see `zoo info`",
    "imgsz": "the model decides the size of the images, see `zoo info`",
}
_COMMANDS = {
    ("extract", "zoo extract"): "embed embedding embeddings encode features feature predict infer inference vectorize"
    " run forward transform",
    ("list", "recipes"): "ls models list-models",
    ("fetch", "zoo fetch"): "download pull get install",
    ("evaluate", "zoo evaluate"): "eval knn linear probe test score benchmark validate",
    ("info", "zoo info"): "show describe inspect model",
    ("search", "zoo search"): "query find neighbours neighbors nearest similar",
    ("serve", "zoo serve"): "web ui gui view browse server app open",
    ("cat", "zoo cat"): "merge concat join csv",
    ("verify", "zoo verify"): "check",
    ("export",): "onnx quantize quantise save",
    ("publish", "zoo publish"): "upload push",
    ("run", "zoo-train run"): "train fit pretrain start finetune",
    ("recipes", "zoo-train recipes"): "recipe configs config",
    ("plot", "zoo-train plot"): "curves figures",
    ("sweep", "zoo-train sweep"): "tune search hpo",
}


def option_meant(word: str, options: Collection[str]) -> str | None:
    """Return the option of a command that a word such as ``--input`` stands for; ``None`` where nobody knows."""
    name = _plain(word)
    return next(
        (one for meant, words in _OPTIONS.items() if name in words.split() for one in meant if one in options), None
    )


def said_of_option(word: str) -> str | None:
    """Return why there is no option of that name where none is needed."""
    return _SAID.get(_plain(word))


def command_meant(word: str, commands: Collection[str]) -> str | None:
    """Return the command that a word such as ``embed`` stands for: one of ``commands``, or of the other program."""
    name = _plain(word)
    for meant, words in _COMMANDS.items():
        if name in (*words.split(), *(one.rpartition(" ")[2] for one in meant)):
            here = next((one for one in meant if one in commands), None)
            if here is not None or " " in meant[-1]:
                return here or meant[-1]
    return None


def _plain(word: str) -> str:
    return word.lstrip("-").partition("=")[0].replace("_", "-").lower()
