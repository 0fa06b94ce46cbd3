"""``python -m ppl_vae``: the same as ``ppl-vae``."""

from ppl_vae.cli import main

if __name__ == "__main__":
    main()
