"""The section of a card that says how to load the model, with each loader that reads it."""

from __future__ import annotations

from zoo.models.model_config import needs_import
from zoo.publish.card.facts import SAME, SAME_PHOTOGRAPH, Agreement, Facts, Int8
from zoo.publish.card.markdown import wrap
from zoo.transforms.tf_bicubic import TfBicubic


def section(facts: Facts) -> str:
    """Commands of this project; of a hub's repository also those of the other loaders, and how far they agree."""
    lines = [
        "## Use",
        "",
        "With this project, from photographs to a table of embeddings or to an array:",
        "",
        f"    zoo extract --model {facts.reference} --images DIR --out OUT",
        "",
        "    import zoo",
        f'    zoo.load("{facts.reference}")(["photo.jpg"])                # float32 [1, {facts.architecture.num_features}]',
    ]
    if facts.repository:
        lines += _other_loaders(facts)
    else:
        lines += ["", *_other_forms(facts)]
    return "\n".join(lines)


def _other_forms(facts: Facts) -> list[str]:
    """For torch.hub, where it has an entry of this network, and for any program."""
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


def _other_loaders(facts: Facts) -> list[str]:
    repository, size = facts.repository, facts.preprocessing.input_size
    lines = [
        "",
        "Add `@REVISION` (a branch, a tag, a commit) to pin it. The other loaders take upright RGB images: apply",
        "`PIL.ImageOps.exif_transpose` to photographs of cameras first, as the zoo does by itself.",
        "",
    ]
    if own := needs_import(facts.architecture):
        lines += [
            "This network pads as TensorFlow does, which timm's names cannot say: `import zoo.timm_models` (from",
            "`siamese-zoo`) teaches it to timm and transformers; without it they stop with an unknown model rather than",
            "build a wrong one.",
            "",
        ]
    if first := facts.preprocessing.tf_bicubic:
        lines += [wrap(_other_pixels(first, facts.agreement)), ""]
    extra = ["    import zoo.timm_models"] if own else []
    lines += [
        "timm:",
        "",
        "    import timm, torch",
        *extra,
        f'    model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()',
        "    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "    embedding = model(transform(image)[None])",
        "",
        "transformers:",
        "",
        "    from transformers import AutoImageProcessor, AutoModel, pipeline",
        *extra,
        f'    processor = AutoImageProcessor.from_pretrained("{repository}")',
        f'    model = AutoModel.from_pretrained("{repository}").eval()',
        "    embedding = model(**processor(image)).pooler_output",
        f'    embedding = pipeline("image-feature-extraction", model="{repository}")(image, pool=True)',
        "",
    ]
    if facts.hub_name:
        lines += [
            "torch.hub, from a clone of siamese-zoo:",
            "",
            f'    torch.hub.load("PATH/TO/siamese-zoo", "{facts.hub_name}", source="local", weights="hf-hub:{repository}")',
            "",
        ]
    lines += [
        f"ONNX Runtime, without torch; normalisation is in the graph, pixels are uint8 [N, {size}, {size}, 3]:",
        "",
        "    import onnxruntime",
        "    from huggingface_hub import hf_hub_download",
        f'    session = onnxruntime.InferenceSession(hf_hub_download("{repository}", "model.onnx"))',
        '    embedding, = session.run(["embedding"], {"pixels": pixels})',
    ]
    if facts.agreement:
        a = facts.agreement
        first = facts.preprocessing.tf_bicubic
        eight = "rounded to 8 bits" if first else "Pillow's 8 bits"
        resized = " resized by Pillow" if first else ""
        measured = (
            f"Measured when this was published, on {a.photographs} photographs, largest difference over largest value, "
            f"against zoo: timm {a.timm:.0e} on the same normalised pixels, {a.timm_photograph:.0e} from the photograph "
            f"through timm's own transform, which transformers uses too; ONNX Runtime {a.onnx:.0e} on the same pixels; a "
            f"photograph resized in floating point instead of {eight} {a.float_resize:.0e}. Nothing is published "
            f"with more than {SAME:.0e} on the same pixels or {SAME_PHOTOGRAPH:.0e} from the photograph{resized}."
        )
        lines += ["", wrap(measured), *_int8(a.int8)]
    return lines


def _other_pixels(first: TfBicubic, agreement: Agreement | None) -> str:
    """Of weights that are cropped first: what timm and transformers make of them."""
    far = ""
    if agreement:
        far = (
            f", by {agreement.timm_photograph:.1%} of the largest value on the {agreement.photographs} small photographs of "
            "the check below and by more on larger ones, which Pillow smooths"
        )
    return (
        f"These weights were evaluated on pixels that {first.function} made ({first.source}): crop first, no antialias. "
        "timm and transformers have no words for it: `config.json` tells them the closest, Pillow's antialiased bicubic "
        f"before the crop, and their embedding of a photograph differs from the zoo's{far}. For the published scores take "
        "the zoo or an ONNX file that takes photographs of any size (`zoo export --pixels any`)."
    )


def _int8(int8: Int8 | None) -> list[str]:
    if int8 is None:
        return []
    gate = f"at least {int8.allowed:g} with torch's on photographs that it was not calibrated on"
    if int8.cosine is None:
        return ["", wrap(f"There is no int8 file: its embeddings did not reach a cosine of {gate} ({int8.refused}).")]
    text = f"`model_int8.onnx` is the same in int8, for CPUs. Its gate is a cosine of {gate}"
    return ["", wrap(f"{text}; measured on {int8.photographs}: {int8.cosine:.4f} or more.")]
