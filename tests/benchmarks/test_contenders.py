"""The contenders of the benchmarks compute one loss, so that their times may be compared."""

import pytest
import torch
from batches import Shuffled, split_of
from cases import CASES
from tiers import fast_in

from ppl_vae.core.process import isolated

#: A case by its model, with K.
FAST = [("vae", 1), ("vae", 3), ("ladder", 1), ("conv", 1), ("cvae", 1), ("cross-modal", 1)]
COMPARED = [*FAST, ("ppca", 1)]  # which reads a data set


def loss_and_gradient(parameters, loss_of):
    """Return the loss from a fixed random state, and its gradient, as one vector."""
    with isolated(1):
        loss = loss_of()
    return loss.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def parameters_of_both(case, module):
    """Return the pair and the parameters of both, model's before guide's, once they have the same values."""
    pair = case.pair()
    own, by_hand = list(pair.parameters()), list(module.parameters())
    assert [p.shape for p in own] == [p.shape for p in by_hand]
    with torch.no_grad():
        for a, b in zip(own, by_hand, strict=True):
            b.copy_(a)
    return pair, own, by_hand


@pytest.mark.parametrize("compared", fast_in(FAST, COMPARED), ids=str)
def test_the_hand_written_module_has_our_loss_and_gradient(compared):
    name, K = compared
    case = CASES[name](6, K)
    for make in (case.by_hand, *case.variants.values()):
        module = make()
        pair, own, by_hand = parameters_of_both(case, module)
        loss = loss_and_gradient(
            own, lambda pair=pair: case.objective.differentiable_loss(pair.model, pair.guide, **case.batch)
        )
        same = loss_and_gradient(by_hand, lambda module=module: module(**case.batch))
        torch.testing.assert_close(same, loss, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["vae", "conv"])
def test_pythae_has_the_loss_of_the_networks_that_it_is_given(name):
    pytest.importorskip("pythae")
    from contenders.pythae_vae import model_of

    case = CASES[name](6, 1)
    module = case.by_hand()
    with isolated(1):
        expected = module(**case.batch) / 6
    with isolated(1):
        found = model_of(module, 50)({"data": case.batch["x"]}).loss
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_grey_pictures_are_binarised_afresh_from_the_same_rows_for_all():
    batches = Shuffled(4, rows=10)
    assert len(batches.grey) == batches.split.size == 8  # whole batches
    drawn = torch.stack([split_of(batches.grey).batch()["x"] for _ in range(200)]).mean(0)
    error = (batches.grey * (1 - batches.grey) / 200).sqrt()
    assert ((drawn - batches.grey).abs() <= 6 * error).all()
    assert set(batches()["x"].unique().tolist()) == {0.0, 1.0}
