"""The section of a card about loading the model, with each loader that reads it."""

from __future__ import annotations

from zoo.models.model_config import needs_import
from zoo.publish.card.facts import SAME, SAME_PHOTOGRAPH, Agreement, Facts, Int8
from zoo.publish.card.markdown import wrap
from zoo.transforms.preprocess import Preprocessing
from zoo.transforms.tf_bicubic import TfBicubic


def section(facts: Facts) -> str:
    """Return the commands for this project, and on a hub those for the other loaders with their measured agreement."""
    lines = [
        "## Use",
        "",
        "With this project, from photographs to a table of embeddings or to an array:",
        "",
        f"    zoo extract --model {facts.reference} --images DIR --out OUT",
        "",
        "    import zoo",
        f'    zoo.load("{facts.reference}")(["photo.jpg"])                # float32 [1, {facts.architecture.num_features}]',
        "",
    ]
    # The other loaders need a repository on the hub.
    if facts.repository:
        lines += _other_loaders(facts, facts.repository)
    else:
        lines += _other_forms(facts)
    return "\n".join(lines)


def _other_forms(facts: Facts) -> list[str]:
    """torch.hub, where it has an entry of this network, and ONNX."""
    export = f"    zoo export --model {facts.reference} --out model.onnx"
    if facts.hub_name is None:
        return ["An ONNX file for any program:", "", export]
    weights = facts.name.partition(".")[2] if facts.bundled or facts.official else facts.location
    return [
        "The bare module from torch.hub (normalised [N, 3, H, W] to [N, D]), and an ONNX file for any program:",
        "",
        f'    torch.hub.load("PATH/TO/siamese-zoo", "{facts.hub_name}", source="local", weights="{weights}")',
        export,
    ]


def _other_loaders(facts: Facts, repository: str) -> list[str]:
    own_import = ["    import zoo.timm_models"] if needs_import(facts.architecture) else []
    return [
        *_introduction(facts),
        *_timm(repository, own_import),
        *_transformers(repository, own_import),
        *_torch_hub(repository, facts),
        *_onnx_runtime(repository, facts.preprocessing),
        *(_measured(facts, facts.agreement) if facts.agreement else []),
    ]


def _introduction(facts: Facts) -> list[str]:
    lines = [
        "Add `@REVISION` (a branch, a tag, a commit) to pin it. The other loaders take upright RGB images: apply",
        "`PIL.ImageOps.exif_transpose` to photographs of cameras first, as the zoo does by itself.",
        "",
    ]
    # Warn of what the other loaders cannot express.
    if needs_import(facts.architecture):
        lines += [
            "This network pads as TensorFlow does, which timm's names cannot say: `import zoo.timm_models` (from",
            "`siamese-zoo`) teaches it to timm and transformers; without it they stop with an unknown model rather than",
            "build a wrong one.",
            "",
        ]
    if tf := facts.preprocessing.tf_bicubic:
        lines += [wrap(_other_pixels(tf, facts.agreement)), ""]
    return lines


def _timm(repository: str, own_import: list[str]) -> list[str]:
    return [
        "timm:",
        "",
        "    import timm, torch",
        *own_import,
        f'    model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()',
        "    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "    embedding = model(transform(image)[None])",
        "",
    ]


def _transformers(repository: str, own_import: list[str]) -> list[str]:
    return [
        "transformers:",
        "",
        "    from transformers import AutoImageProcessor, AutoModel, pipeline",
        *own_import,
        f'    processor = AutoImageProcessor.from_pretrained("{repository}")',
        f'    model = AutoModel.from_pretrained("{repository}").eval()',
        "    embedding = model(**processor(image)).pooler_output",
        f'    embedding = pipeline("image-feature-extraction", model="{repository}")(image, pool=True)',
        "",
    ]


def _torch_hub(repository: str, facts: Facts) -> list[str]:
    if facts.hub_name is None and facts.architecture.is_resnet:
        return []
    hub_name = facts.hub_name or "encoder"
    return [
        "torch.hub, from a clone of siamese-zoo:",
        "",
        f'    torch.hub.load("PATH/TO/siamese-zoo", "{hub_name}", source="local", weights="hf-hub:{repository}")',
        "",
    ]


def _onnx_runtime(repository: str, transform: Preprocessing) -> list[str]:
    shape = f"[N, {transform.input_size}, {transform.input_size}, {transform.channels}]"
    return [
        f"ONNX Runtime, without torch; normalisation is in the graph, pixels are uint8 {shape}:",
        "",
        "    import onnxruntime",
        "    from huggingface_hub import hf_hub_download",
        f'    session = onnxruntime.InferenceSession(hf_hub_download("{repository}", "model.onnx"))',
        '    embedding, = session.run(["embedding"], {"pixels": pixels})',
    ]


def _measured(facts: Facts, a: Agreement) -> list[str]:
    crops_first = facts.preprocessing.tf_bicubic is not None
    eight = "rounded to 8 bits" if crops_first else "Pillow's 8 bits"
    resized = " resized by Pillow" if crops_first else ""
    measured = (
        f"Measured when this was published, on {a.photographs} photographs, largest difference over largest value, "
        f"against zoo: timm {a.timm:.0e} on the same normalised pixels, {a.timm_photograph:.0e} from the photograph "
        f"through timm's own transform, which transformers uses too; ONNX Runtime {a.onnx:.0e} on the same pixels; a "
        f"photograph resized in floating point instead of {eight} {a.float_resize:.0e}. Nothing is published "
        f"with more than {SAME:.0e} on the same pixels or {SAME_PHOTOGRAPH:.0e} from the photograph{resized}."
    )
    return ["", wrap(measured), *_int8(a.int8)]


def _other_pixels(tf: TfBicubic, agreement: Agreement | None) -> str:
    """The difference of timm's and transformers' pixels, for weights with TensorFlow's resize."""
    far = ""
    if agreement:
        far = (
            f", by {agreement.timm_photograph:.1%} of the largest value on the {agreement.photographs} small photographs of "
            "the check below and by more on larger ones, which Pillow smooths"
        )
    return (
        f"These weights were evaluated on pixels that {tf.function} made ({tf.source}): crop first, no antialias. "
        "timm and transformers have no words for it: `config.json` tells them the closest, Pillow's antialiased bicubic "
        f"before the crop, and their embedding of a photograph differs from the zoo's{far}. For the published scores take "
        "the zoo or an ONNX file that takes photographs of any size (`zoo export --pixels any`)."
    )


def _int8(int8: Int8 | None) -> list[str]:
    if int8 is None:
        return []
    limit = f"at least {int8.allowed:g} with torch's on photographs that it was not calibrated on"
    if int8.cosine is None:
        return ["", wrap(f"There is no int8 file: its embeddings did not reach a cosine of {limit} ({int8.refused}).")]
    text = f"`model_int8.onnx` is the same in int8, for CPUs. Its gate is a cosine of {limit}"
    return ["", wrap(f"{text}; measured on {int8.photographs}: {int8.cosine:.4f} or more.")]
