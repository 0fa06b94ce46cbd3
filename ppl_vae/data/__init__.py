"""Data sets: built in by name, or the user's own, as splits that are mappings of tensors."""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.data.binarization import binarize
    from ppl_vae.data.catalogue import binarizations, load, names
    from ppl_vae.data.conditional import given_labels, given_quadrants, hidden_pixels, whole_pictures
    from ppl_vae.data.few_labels import with_few_labels
    from ppl_vae.data.hands.camera import Camera
    from ppl_vae.data.hands.capsules import draw_capsules
    from ppl_vae.data.hands.recorded import Hands
    from ppl_vae.data.hands.varied import with_varied_hands
    from ppl_vae.data.hands.viewpoint import angle_between, join_viewpoint, rotation_matrix, split_viewpoint
    from ppl_vae.data.own.tensors import as_split, from_tensors
    from ppl_vae.data.sets.sprites import FACTORS, draw_sprites
    from ppl_vae.data.sets.synthetic import LinearGaussian
    from ppl_vae.data.spec import Spec
    from ppl_vae.data.split import Dataset, Role, Split
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = [
    "FACTORS",
    "Camera",
    "Dataset",
    "Hands",
    "LinearGaussian",
    "Role",
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
