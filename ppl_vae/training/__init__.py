"""`ppl_vae.fit`, the only training loop, and the folder that holds a run."""
