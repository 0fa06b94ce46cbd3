"""The part of a report on a pair that is a classifier: q(y|x) against the true labels."""

from __future__ import annotations

from ppl_vae import plots
from ppl_vae.core.errors import PplVaeError
from ppl_vae.evaluation.representation.classification import classify
from ppl_vae.report.gallery import Subject, part
from ppl_vae.report.page import Report

#: Draws of what the guide draws before y.
DRAWS = 10


def classes(report: Report, s: Subject) -> None:
    """Add accuracy and calibration of the latent y, and whether it has collapsed; nothing for a pair without one."""
    if s.split is None or "y" not in s.split:
        return
    try:
        found = classify(s.run.pair, s.split, num_particles=DRAWS)
    except PplVaeError:  # no class among the latents
        return
    report.text(s.head("Classes"))
    report.text(f"q(y|x), to which no label was shown: {found}.")
    with part(report, "calibration"):
        caption = "How often the predicted class is true, by its probability, ± two standard errors."
        report.figure(plots.calibration({"q(y|x)": found.calibration()}), caption, s.figure_name("calibration"))
