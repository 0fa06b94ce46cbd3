"""What latents hold: layers in use, disentanglement, walks along factors, classes."""
