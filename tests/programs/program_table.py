"""All programs, by name."""

from __future__ import annotations

import programs_outside_torch
import programs_recurrent
import programs_with_autograd
import programs_with_flows
import programs_with_layers
import programs_with_masks
import programs_with_structure
from program_parts import Program

PROGRAMS: dict[str, Program] = {}
for module in (
    programs_outside_torch,
    programs_recurrent,
    programs_with_flows,
    programs_with_masks,
    programs_with_layers,
    programs_with_autograd,
    programs_with_structure,
):
    assert not PROGRAMS.keys() & module.PROGRAMS.keys()
    PROGRAMS.update(module.PROGRAMS)
