"""Training any pair: one step, recorded; the loop around it; and `fit`, from data to a run."""
