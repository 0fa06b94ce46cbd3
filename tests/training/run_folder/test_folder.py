"""A fit that is interrupted from the keyboard keeps its last whole epoch, and goes on from there."""

from __future__ import annotations

import pytest
import torch
from own_pairs import batch, pair
from tiers import fast_in

import ppl_vae
from ppl_vae.objectives import ELBO


class Interrupting(ELBO):
    """The bound of a user who presses Ctrl-C in a certain step."""

    recordable = False
    press = 0

    def differentiable_loss(self, model, guide, **kwargs):
        Interrupting.press -= 1
        if Interrupting.press == 0:
            raise KeyboardInterrupt
        return super().differentiable_loss(model, guide, **kwargs)


@pytest.mark.parametrize("step", fast_in({1, 4}, [1, 3, 4, 8]))  # three steps to an epoch
def test_interrupt_keeps_the_last_whole_epoch(tmp_path, step):
    def fit(mine, epochs, **options):
        return ppl_vae.fit(
            mine, batch(20), batch_size=8, epochs=epochs, objective=Interrupting(), progress=False, **options
        )

    Interrupting.press = step
    mine, folder = pair(), tmp_path / "run"
    start = {name: value.clone() for name, value in mine.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        fit(mine, 5, run_dir=folder, checkpoint_seconds=1000)
    done = (step - 1) // 3
    kept = ppl_vae.load(folder, pair=pair(1))
    assert len(kept.history.get("epoch", [])) == done
    whole = fit(pair(), done).pair.state_dict() if done else start
    for state in (mine.state_dict(), kept.pair.state_dict()):
        assert all(torch.equal(state[name], whole[name]) for name in whole)
    last = fit(pair(1), 5, run_dir=folder, resume=True)
    reference = fit(pair(), 5)
    assert last.history == reference.history
    assert torch.equal(*(run.pair.model.net.weight for run in (last, reference)))
