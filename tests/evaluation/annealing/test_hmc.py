"""HMC: leapfrog is reversible and keeps volume, transitions leave their target invariant, step sizes adapt."""

from __future__ import annotations

import pytest
import torch

from ppl_vae.evaluation.annealing import hmc

F64 = torch.float64
SE = 4.5
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=F64)
TARGET = torch.distributions.MultivariateNormal(torch.tensor([1.0, -2.0], dtype=F64), COVARIANCE)


def gaussian(u):
    log_f = TARGET.log_prob(u)
    return log_f, u[..., 0]


def bananas(u):
    """Curved, with no symmetry that could hide a wrong sign."""
    log_f = -0.5 * u[..., 0] ** 2 - 0.5 * (u[..., 1] - u[..., 0] ** 2) ** 2 - 0.1 * u[..., 1].exp()
    return log_f, log_f


def logistic(u):
    """Independent logistic coordinates: mean 0, variance pi^2 / 3."""
    log_f = (-u - 2 * torch.nn.functional.softplus(-u)).sum(-1)
    return log_f, log_f


def end(u, momentum, step, num_steps=7, density=bananas):
    slope, *_ = hmc.gradient(density, u)
    u, momentum, *_ = hmc.leapfrog(density, u, momentum, slope, step, num_steps)
    return u, momentum


def test_gradient_and_what_else_is_told():
    u = torch.randn(3, 4, 2, dtype=F64)
    slope, log_f, other = hmc.gradient(gaussian, u)
    torch.testing.assert_close(slope, -(u - TARGET.mean) @ torch.linalg.inv(COVARIANCE))
    torch.testing.assert_close(log_f, TARGET.log_prob(u))
    assert torch.equal(other, u[..., 0])
    assert not slope.requires_grad
    assert not log_f.requires_grad


def test_leapfrog_turned_round_comes_back():
    torch.manual_seed(0)
    u, momentum = torch.randn(5, 3, 2, dtype=F64), torch.randn(5, 3, 2, dtype=F64)
    step = torch.tensor(0.2, dtype=F64)
    there, fast = end(u, momentum, step)
    assert (there - u).abs().max() > 0.5
    back, slow = end(there, -fast, step)
    torch.testing.assert_close(back, u, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(-slow, momentum, rtol=1e-10, atol=1e-10)


def test_leapfrog_keeps_volume():
    """The determinant of its Jacobian, by central differences in the phase space of four dimensions."""
    step, h = torch.tensor(0.2, dtype=F64), 1e-5
    start = torch.tensor([0.3, -0.7, 0.5, 1.1], dtype=F64)

    def flow(state):
        return torch.cat(end(state[None, None, :2], state[None, None, 2:], step), -1)[0, 0]

    columns = [(flow(start + h * unit) - flow(start - h * unit)) / (2 * h) for unit in torch.eye(4, dtype=F64)]
    jacobian = torch.stack(columns, 1)
    assert (jacobian - torch.eye(4, dtype=F64)).abs().max() > 0.5
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 1e-7


def test_leapfrog_is_of_second_order():
    """Over one trajectory the energy's error falls by four where the step is halved."""
    torch.manual_seed(1)
    u, momentum = torch.randn(200, 1, 2, dtype=F64), torch.randn(200, 1, 2, dtype=F64)

    def energy(u, momentum):
        return 0.5 * momentum.square().sum(-1) - gaussian(u)[0]

    errors = []
    for halving in range(3):
        step, num_steps = torch.tensor(0.2 / 2**halving, dtype=F64), 5 * 2**halving
        after = energy(*end(u, momentum, step, num_steps, gaussian))
        errors.append(float((after - energy(u, momentum)).abs().mean()))
    assert 3.5 < errors[0] / errors[1] < 4.6
    assert 3.7 < errors[1] / errors[2] < 4.3


@pytest.mark.slow
@pytest.mark.parametrize("step", [0.3, 0.9])
def test_a_transition_leaves_its_target_invariant(step):
    """Exact draws stay exact draws: mean and covariance within error, with a step so large that many are refused."""
    torch.manual_seed(2)
    n = 40_000
    u = TARGET.sample((n, 1))
    for _ in range(3):
        u, other, acceptance = hmc.transition(gaussian, u, torch.full((1,), step, dtype=F64), 3)
    assert (acceptance.mean() < 0.93) == (step > 0.5)
    assert torch.equal(other, u[..., 0])  # the value where each chain is, not at the rejected end
    flat = u[:, 0]
    assert ((flat.mean(0) - TARGET.mean).abs() < SE * (COVARIANCE.diagonal() / n).sqrt()).all()
    # A sample covariance of n Gaussian draws has variance (c_ii c_jj + c_ij^2) / n.
    spread = ((COVARIANCE.diagonal().outer(COVARIANCE.diagonal()) + COVARIANCE**2) / n).sqrt()
    assert ((flat.T.cov() - COVARIANCE).abs() < SE * spread).all()


def test_energy_errors_average_to_no_change_of_volume():
    """E[exp(H_start - H_end)] = 1 over the target, which holds for maps that keep volume alone (Jarzynski)."""
    torch.manual_seed(3)
    n, step = 40_000, torch.tensor(0.5, dtype=F64)
    u, momentum = TARGET.sample((n, 1)), torch.randn(n, 1, 2, dtype=F64)
    after, fast = end(u, momentum, step, 3, gaussian)
    gain = gaussian(after)[0] - gaussian(u)[0] + 0.5 * (momentum.square() - fast.square()).sum(-1)
    ratio = gain.exp()
    assert ratio.std() > 0.1
    assert abs(ratio.mean() - 1) < SE * ratio.std() / n**0.5


@pytest.mark.slow
def test_chains_from_afar_reach_their_target():
    torch.manual_seed(4)
    u = torch.full((4000, 2, 1), 6.0, dtype=F64)
    step = torch.tensor([0.8, 1.3], dtype=F64)
    for _ in range(60):
        u, _, acceptance = hmc.transition(logistic, u, step, 4)
        assert acceptance.shape == (4000, 2)
    variance, fourth = torch.pi**2 / 3, 7 * torch.pi**4 / 15
    assert (u.mean((0, 2)).abs() < SE * (variance / 4000) ** 0.5).all()
    assert ((u.square().mean((0, 2)) - variance).abs() < SE * ((fourth - variance**2) / 4000) ** 0.5).all()


def test_an_end_that_is_no_number_is_refused():
    def edge(u):
        log_f = -0.5 * u.square().sum(-1) + 0 * (2.0 - u[..., 0]).log()  # NaN beyond 2
        return log_f, log_f

    torch.manual_seed(5)
    u = torch.full((500, 1, 1), 1.5, dtype=F64)
    after, other, acceptance = hmc.transition(edge, u, torch.full((1,), 0.7, dtype=F64), 2)
    assert torch.isfinite(after).all()
    assert torch.isfinite(other).all()
    assert (acceptance == 0).any()
    assert (after < 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.5, 0.65, 0.9])
def test_adaptation_reaches_its_target(target):
    """For data of scales a hundred times apart, each by itself."""
    torch.manual_seed(6)
    scales = torch.tensor([0.1, 1.0, 10.0], dtype=F64)
    each = scales.unsqueeze(-1) * torch.linspace(0.5, 2, 20, dtype=F64)  # unequal: no step fits a whole period of all

    def density(u):
        log_f = -0.5 * (u / each).square().sum(-1)
        return log_f, log_f

    u, step = each * torch.randn(30, 3, 20, dtype=F64), torch.full((3,), 0.5, dtype=F64)
    steps = []
    for _ in range(500):
        u, _, acceptance = hmc.transition(density, u, step, 5)
        step = hmc.adapted(step, acceptance, target, 0.1)
        steps.append(step.log())
    settled = torch.stack(steps[200:]).mean(0).exp()
    reached = torch.stack([hmc.transition(density, u, settled, 5)[2].mean(0) for _ in range(40)])
    # 0.02 beside Monte Carlo error: acceptance bends with the step, and steps spread by some hundredths.
    assert ((reached.mean(0) - target).abs() < SE * reached.std(0) / 40**0.5 + 0.02).all()
    relative = settled / scales  # steps are of the size of what they explore
    torch.testing.assert_close(relative / relative.mean(), torch.ones(3, dtype=F64), rtol=0.15, atol=0)
