"""Fixed texts of model cards: methods with their papers, data sets, licences, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MethodText:
    """The texts about a training method.

    Attributes:
        title: the name as the paper writes it.
        learns: one sentence about the training signal.
        bibtex: the paper.
        compute: the training time of the authors' ResNet-50 with its source; "" where they give none.
        precision: how the number format of ``zoo-train``'s recipes differs from the authors'; "" without such recipes.
    """

    title: str
    learns: str
    bibtex: str
    compute: str = ""
    precision: str = ""


_FP32 = "The training recipe here uses bf16 autocast by default; `precision=fp32` reproduces the original."
_MIXED = (  # swav main_swav.py: apex O1; barlowtwins main.py, vicreg main_vicreg.py, moco-v3 main_moco.py: cuda.amp
    "The training recipe here uses bf16 autocast by default, the original mixed fp16; `precision=fp32` is neither."
)
_SWAV_PAPER = """@inproceedings{caron2020swav,
  title     = {Unsupervised Learning of Visual Features by Contrasting Cluster Assignments},
  author    = {Caron, Mathilde and Misra, Ishan and Mairal, Julien and Goyal, Priya and Bojanowski, Piotr and
               Joulin, Armand},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020},
  note      = {arXiv 2006.09882}
}"""  # its appendix describes DeepCluster v2 and SeLa v2

METHODS: Mapping[str, MethodText] = {
    "byol": MethodText(
        "BYOL",
        "One view of an image predicts what a slowly moving average of the network says of another view; no negative "
        "pairs, no labels",
        """@inproceedings{grill2020byol,
  title     = {Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning},
  author    = {Grill, Jean-Bastien and Strub, Florian and Altch{\\'e}, Florent and Tallec, Corentin and
               Richemond, Pierre H. and Buchatskaya, Elena and Doersch, Carl and Avila Pires, Bernardo and
               Guo, Zhaohan Daniel and Gheshlaghi Azar, Mohammad and Piot, Bilal and Kavukcuoglu, Koray and
               Munos, R{\\'e}mi and Valko, Michal},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020},
  note      = {arXiv 2006.07733}
}""",
        "about 8 hours on 512 Cloud TPU v3 cores for ResNet-50 1x at 1000 epochs (paper, implementation details)",
        precision=_FP32,
    ),
    "simsiam": MethodText(
        "SimSiam",
        "One view of an image predicts what the same network says of another view, through which no gradient flows; no "
        "negative pairs, no labels",
        """@inproceedings{chen2021simsiam,
  title     = {Exploring Simple Siamese Representation Learning},
  author    = {Chen, Xinlei and He, Kaiming},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2021},
  note      = {arXiv 2011.10566}
}""",
        precision=_FP32,
    ),
    "simclr": MethodText(
        "SimCLR",
        "Two views of an image are told from all other images of the batch; no labels",
        """@inproceedings{chen2020simclr,
  title     = {A Simple Framework for Contrastive Learning of Visual Representations},
  author    = {Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},
  booktitle = {International Conference on Machine Learning},
  year      = {2020},
  note      = {arXiv 2002.05709}
}""",
        "about 1.5 hours per 100 epochs on 128 TPU v3 cores for ResNet-50 1x at batch 4096 (paper, section 2.2)",
        precision=_FP32,
    ),
    "moco": MethodText(
        "MoCo v2",
        "Two views of an image are told from a queue of other images, encoded by a slowly moving average of the "
        "network; no labels",
        """@article{chen2020mocov2,
  title   = {Improved Baselines with Momentum Contrastive Learning},
  author  = {Chen, Xinlei and Fan, Haoqi and Girshick, Ross and He, Kaiming},
  journal = {arXiv 2003.04297},
  year    = {2020}
}""",
        "53 hours per 200 epochs on 8 V100 GPUs for ResNet-50 at batch 256 (paper, table 3)",
        precision=_FP32,
    ),
    "swav": MethodText(
        "SwAV",
        "One view of an image predicts the cluster of another view, the clusters being found along; no labels",
        _SWAV_PAPER,
        precision=_MIXED,
    ),
    "mocov1": MethodText(
        "MoCo v1",
        "Two views of an image are told from a queue of other images, encoded by a slowly moving average of the "
        "network; no labels",
        """@inproceedings{he2020moco,
  title     = {Momentum Contrast for Unsupervised Visual Representation Learning},
  author    = {He, Kaiming and Fan, Haoqi and Wu, Yuxin and Xie, Saining and Girshick, Ross},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2020},
  note      = {arXiv 1911.05722}
}""",
    ),
    "deepclusterv2": MethodText(
        "DeepCluster v2",
        "Each image predicts the cluster that k-means gave it from the last epoch's features; no labels",
        _SWAV_PAPER,
    ),
    "selav2": MethodText(
        "SeLa v2",
        "Each image predicts a cluster, the clusters being assigned in equal parts along the training; no labels",
        _SWAV_PAPER,
    ),
    "cmc": MethodText(
        "CMC",
        "Two networks, of an image's lightness and of its colours, find the image by what the other said of it; no "
        "labels",
        """@inproceedings{tian2020cmc,
  title     = {Contrastive Multiview Coding},
  author    = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
  booktitle = {European Conference on Computer Vision},
  year      = {2020},
  note      = {arXiv 1906.05849}
}""",
        precision=_FP32,
    ),
    "pirl": MethodText(
        "PIRL",
        "An image and its shuffled patches are both found by the image's vector in a memory bank; no labels",
        """@inproceedings{misra2020pirl,
  title     = {Self-Supervised Learning of Pretext-Invariant Representations},
  author    = {Misra, Ishan and van der Maaten, Laurens},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2020},
  note      = {arXiv 1912.01991}
}""",
        precision=_FP32,
    ),
    "infomin": MethodText(
        "InfoMin Aug.",
        "A view of an image and its shuffled patches are told from a queue of other images by the key of another view, "
        "encoded by a slowly moving average of the network; no labels",
        """@inproceedings{tian2020infomin,
  title     = {What Makes for Good Views for Contrastive Learning?},
  author    = {Tian, Yonglong and Sun, Chen and Poole, Ben and Krishnan, Dilip and Schmid, Cordelia and
               Isola, Phillip},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020},
  note      = {arXiv 2005.10243}
}""",
        precision=_FP32,
    ),
    "localagg": MethodText(
        "Local Aggregation",
        "An image is drawn to those of its neighbours in a memory bank that share a cluster with it; no labels",
        """@inproceedings{zhuang2019localagg,
  title     = {Local Aggregation for Unsupervised Learning of Visual Embeddings},
  author    = {Zhuang, Chengxu and Zhai, Alex Lin and Yamins, Daniel},
  booktitle = {International Conference on Computer Vision},
  year      = {2019},
  note      = {arXiv 1903.12355}
}""",
        precision=_FP32,
    ),
    "cpc": MethodText(
        "CPC v2",
        "The patches of an image above a place predict a patch below it, among all patches of the batch; no labels",
        """@inproceedings{henaff2020cpc,
  title     = {Data-Efficient Image Recognition with Contrastive Predictive Coding},
  author    = {H{\\'e}naff, Olivier J. and Srinivas, Aravind and De Fauw, Jeffrey and Razavi, Ali and
               Doersch, Carl and Eslami, S. M. Ali and van den Oord, A{\\"a}ron},
  booktitle = {International Conference on Machine Learning},
  year      = {2020},
  note      = {arXiv 1905.09272}
}""",
    ),
    "byol_gn": MethodText(
        "BYOL without BN",
        "One view of an image predicts what a slowly moving average of the network says of another view; group norm "
        "and standardised weights, so that no layer mixes the images of a batch; no negative pairs, no labels",
        """@article{richemond2020byol,
  title   = {{BYOL} works even without batch statistics},
  author  = {Richemond, Pierre H. and Grill, Jean-Bastien and Altch{\\'e}, Florent and Tallec, Corentin and
             Strub, Florian and Brock, Andrew and Smith, Samuel and De, Soham and Pascanu, Razvan and Piot, Bilal and
             Valko, Michal},
  journal = {arXiv 2010.10241},
  year    = {2020}
}""",
    ),
    "barlowtwins": MethodText(
        "Barlow Twins",
        "The features of two views of an image agree one by one, and no two features say the same; no labels",
        """@inproceedings{zbontar2021barlow,
  title     = {Barlow Twins: Self-Supervised Learning via Redundancy Reduction},
  author    = {Zbontar, Jure and Jing, Li and Misra, Ishan and LeCun, Yann and Deny, St{\\'e}phane},
  booktitle = {International Conference on Machine Learning},
  year      = {2021},
  note      = {arXiv 2103.03230}
}""",
        precision=_MIXED,
    ),
    "vicreg": MethodText(
        "VICReg",
        "Two views of an image have the same features, which keep their variance and are not correlated; no labels",
        """@inproceedings{bardes2022vicreg,
  title     = {VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning},
  author    = {Bardes, Adrien and Ponce, Jean and LeCun, Yann},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  note      = {arXiv 2105.04906}
}""",
        precision=_MIXED,
    ),
    "instdisc": MethodText(
        "InstDisc",
        "Every image is a class of its own, told from others by the vectors of a memory bank; no labels",
        """@inproceedings{wu2018instdisc,
  title     = {Unsupervised Feature Learning via Non-Parametric Instance Discrimination},
  author    = {Wu, Zhirong and Xiong, Yuanjun and Yu, Stella X. and Lin, Dahua},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2018},
  note      = {arXiv 1805.01978}
}""",
        precision=_FP32,
    ),
    "mocov3": MethodText(
        "MoCo v3",
        "One view of an image predicts what a slowly moving average of the network says of another view, told from the "
        "other images of the batch; no labels",
        """@inproceedings{chen2021mocov3,
  title     = {An Empirical Study of Training Self-Supervised Vision Transformers},
  author    = {Chen, Xinlei and Xie, Saining and He, Kaiming},
  booktitle = {International Conference on Computer Vision},
  year      = {2021},
  note      = {arXiv 2104.02057}
}""",
        precision=_MIXED,
    ),
    "densecl": MethodText(
        "DenseCL",
        "MoCo v2 whose queue also tells single places of the feature map from those of other images; no labels",
        """@inproceedings{wang2021densecl,
  title     = {Dense Contrastive Learning for Self-Supervised Visual Pre-Training},
  author    = {Wang, Xinlong and Zhang, Rufeng and Shen, Chunhua and Kong, Tao and Li, Lei},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2021},
  note      = {arXiv 2011.09157}
}""",
        precision=_FP32,
    ),
    "dino": MethodText(
        "DINO",
        "Small and large views of an image are given the distribution that a slowly moving average of the network gives "
        "its large views; no labels",
        """@inproceedings{caron2021dino,
  title     = {Emerging Properties in Self-Supervised Vision Transformers},
  author    = {Caron, Mathilde and Touvron, Hugo and Misra, Ishan and J{\\'e}gou, Herv{\\'e} and Mairal, Julien and
               Bojanowski, Piotr and Joulin, Armand},
  booktitle = {International Conference on Computer Vision},
  year      = {2021},
  note      = {arXiv 2104.14294}
}""",
    ),
    "jigsaw": MethodText(
        "jigsaw puzzles",
        "The permutation of an image's nine patches is told from them; no labels",
        """@inproceedings{noroozi2016jigsaw,
  title     = {Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles},
  author    = {Noroozi, Mehdi and Favaro, Paolo},
  booktitle = {European Conference on Computer Vision},
  year      = {2016},
  note      = {arXiv 1603.09246}
}""",
    ),
    "rotnet": MethodText(
        "RotNet",
        "The rotation of an image by 0, 90, 180 or 270 degrees is told from it; no labels",
        """@inproceedings{gidaris2018rotnet,
  title     = {Unsupervised Representation Learning by Predicting Image Rotations},
  author    = {Gidaris, Spyros and Singh, Praveer and Komodakis, Nikos},
  booktitle = {International Conference on Learning Representations},
  year      = {2018},
  note      = {arXiv 1803.07728}
}""",
    ),
    "clusterfit": MethodText(
        "ClusterFit",
        "Each image predicts the cluster that k-means gave it from the features of another network; no labels",
        """@inproceedings{yan2020clusterfit,
  title     = {ClusterFit: Improving Generalization of Visual Representations},
  author    = {Yan, Xueting and Misra, Ishan and Gupta, Abhinav and Ghadiyaram, Deepti and Mahajan, Dhruv},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2020},
  note      = {arXiv 1912.03330}
}""",
    ),
    "supervised": MethodText(
        "supervised learning",
        "Each image predicts its label",
        """@inproceedings{he2016resnet,
  title     = {Deep Residual Learning for Image Recognition},
  author    = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2016},
  note      = {arXiv 1512.03385}
}""",
        precision=_FP32,
    ),
}


@dataclass(frozen=True)
class DataSetText:
    """The texts about a data set that scores or weights come from.

    Attributes:
        title: its name.
        hub: its repository on the Hugging Face hub; "" where none holds the same images.
        note: a remark for readers of a score.
        images: the images that official weights were trained on, as a card says it.
    """

    title: str
    hub: str = ""
    note: str = ""
    images: str = ""


DATA_SETS: Mapping[str, DataSetText] = {
    "imagenet": DataSetText(
        "ImageNet-1k",
        "ILSVRC/imagenet-1k",
        images="the 1,281,167 training images of ImageNet-1k (ILSVRC 2012)",
    ),
    "imagenet-22k": DataSetText("ImageNet-22k", images="the images of ImageNet-22k"),
    "yfcc100m": DataSetText("YFCC100M", images="images of YFCC100M (Flickr)"),
    "coco": DataSetText("COCO", images="the training images of COCO"),
    "tiny-imagenet": DataSetText("Tiny-ImageNet", "zh-plus/tiny-imagenet"),
    "cifar10-jpeg": DataSetText("CIFAR-10 (JPEG)", note="recompressed: not comparable with CIFAR-10"),
    "flowers17": DataSetText("Flowers-17"),
}

_SPDX_ON_THE_HUB = {
    "apache-2.0",
    "mit",
    "cc-by-nc-4.0",
    "cc-by-4.0",
    "cc0-1.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "gpl-3.0",
}


def hub_licence(licence: str) -> dict[str, str]:
    """Return the licence as card metadata: an identifier that the hub knows, or ``other`` with its name."""
    lower = licence.lower()
    return {"license": lower} if lower in _SPDX_ON_THE_HUB else {"license": "other", "license_name": lower}


INTENDED = """Frozen features of photographs: look-alike search, clustering, de-duplication, kNN or linear
classification with few labels, a start for fine-tuning. Not for recognising persons, nor for decisions about people:
nothing here was made or tested for that. The network gives numbers, not classes: a classifier is trained on top."""

IMAGENET_LIMITS = """It has seen ImageNet's photographs: mostly from the web of Western countries, with their
geographic, cultural and gender bias, and with persons who were not asked. Features carry such bias on. Other domains
(medical, satellite, documents, drawings) and small objects need a test of their own before use. Nothing was filtered
from the training data by this project."""

TINY_LIMITS = """It has seen 64-pixel photographs of 200 everyday classes of ImageNet, with their geographic and
cultural bias; small text, faces, medical or satellite images are outside what it knows. Details smaller than about a
fiftieth of the picture are lost before the network sees them. Nothing was filtered from the training data."""

UNKNOWN_LIMITS = """Its features carry the bias of the photographs that it was trained on. Other domains need a test of
their own before use."""
