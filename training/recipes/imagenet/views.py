"""Views that several recipes share, one image's or both; each says whose code has these numbers."""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import View

MOCO_VIEW = View(min_area=0.2, saturation=0.4, blur_p=0.5)  # official main_moco.py --aug-plus, main_simsiam.py
SIMCLR_VIEW = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_p=0.5)  # strength 1 (data_util.py)

LEM_VIEW = View(min_area=0.2, jitter_p=1.0, saturation=0.4, hue=0.4, blur_p=0.0)  # LEM main.py:116-127
PYC_VIEW_A = replace(LEM_VIEW, min_area=0.08)  # PyContrast datasets/util.py:227-244, crops of methods with a bank
