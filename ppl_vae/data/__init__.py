"""Data sets: built in by name, or the user's own, as splits that are mappings of tensors."""

from ppl_vae.data.binarize import binarize
from ppl_vae.data.camera import Camera
from ppl_vae.data.capsules import draw_capsules
from ppl_vae.data.catalogue import binarizations, load, names
from ppl_vae.data.conditional import given_labels, given_quadrants, hidden_pixels, whole_pictures
from ppl_vae.data.few_labels import with_few_labels
from ppl_vae.data.hands import Hands
from ppl_vae.data.own import as_split, from_tensors
from ppl_vae.data.spec import Spec
from ppl_vae.data.split import Dataset, Split
from ppl_vae.data.sprites import FACTORS, draw_sprites
from ppl_vae.data.synthetic import LinearGaussian
from ppl_vae.data.varied_hands import with_varied_hands
from ppl_vae.data.viewpoint import angle_between, join_viewpoint, rotation_matrix, split_viewpoint

__all__ = [
    "FACTORS",
    "Camera",
    "Dataset",
    "Hands",
    "LinearGaussian",
    "Spec",
    "Split",
    "angle_between",
    "as_split",
    "binarizations",
    "binarize",
    "draw_capsules",
    "draw_sprites",
    "from_tensors",
    "given_labels",
    "given_quadrants",
    "hidden_pixels",
    "join_viewpoint",
    "load",
    "names",
    "rotation_matrix",
    "split_viewpoint",
    "whole_pictures",
    "with_few_labels",
    "with_varied_hands",
]
