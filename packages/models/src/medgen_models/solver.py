"""Samplers as plain numbers.

Every solver here is a list of steps, and every step is one linear form of tensors with float coefficients:

    z_next = c_latents z + c_estimate x0 + c_previous x0_previous + c_noise n

where x0 is the estimate of the clean latents at this step, x0_previous that of the step before, and n fresh
noise. The loop that applies them knows nothing of schedules, and its derivative is written by hand as easily.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from medgen_models.diffusion import Diffusion, FlowMatching, NoiseProcess

SolverName = Literal["dpm-solver++", "ddim", "euler"]

LOWEST_HALF_LOG_SNR = -5.1  # log(a / s) at which noise prediction starts


@dataclass(frozen=True)
class SolverStep:
    """One step from the noise level of `timestep` to the next lower one."""

    timestep: float  # a whole number for a Diffusion
    c_latents: float
    c_estimate: float
    c_previous: float = 0.0
    c_noise: float = 0.0


def highest_timestep(diffusion: Diffusion) -> int:
    """Return the timestep that sampling starts from: T - 1, or a lower one where noise prediction asks for it.

    An error of the predicted noise is an error of the estimate s / a times as large: 20,000 times at the end of the
    cosine schedule. So noise prediction starts where log(a / s) is not below `LOWEST_HALF_LOG_SNR`, as the code of
    DPM-Solver's authors has it; the linear schedules of the families here end above it.
    """
    last = diffusion.num_timesteps - 1
    if diffusion.prediction_type != "epsilon":
        return last
    alphas = diffusion.alphas_cumprod
    half_log_snr = (alphas / (1 - alphas)).log() / 2
    return last - int((half_log_snr < LOWEST_HALF_LOG_SNR).sum())


def dpm_solver_steps(diffusion: Diffusion, num_inference_steps: int) -> list[SolverStep]:
    """Return the steps of DPM-Solver++(2M) with a first-order last step to zero noise.

    z_t = (s_t / s_s) z_s - a_t (exp(-h) - 1) D,  h = l_t - l_s,  l = log(a / s)
    D = (1 + 1 / 2r) x0 - (1 / 2r) x0_previous,   r = h_previous / h   (Lu et al. 2022, algorithm 2)

    Timesteps lie on `linspace(0, highest_timestep, n + 1)`, without its lowest point.
    """
    _check_steps(diffusion, num_inference_steps)
    grid = torch.linspace(0, highest_timestep(diffusion), num_inference_steps + 1, dtype=torch.float64)
    timesteps = [int(t) for t in grid.round().flip(0)[:-1]]
    alphas = [math.sqrt(float(diffusion.alphas_cumprod[t])) for t in timesteps]
    sigmas = [math.sqrt(1 - alpha**2) for alpha in alphas]
    half_log_snr = [math.log(alpha / sigma) for alpha, sigma in zip(alphas, sigmas, strict=True)]

    steps = []
    for i in range(num_inference_steps - 1):
        h = half_log_snr[i + 1] - half_log_snr[i]
        weight = -alphas[i + 1] * math.expm1(-h)
        half_ratio = 0.0 if i == 0 else h / (half_log_snr[i] - half_log_snr[i - 1]) / 2
        steps.append(
            SolverStep(
                timestep=timesteps[i],
                c_latents=sigmas[i + 1] / sigmas[i],
                c_estimate=weight * (1 + half_ratio),
                c_previous=-weight * half_ratio,
            )
        )
    steps.append(SolverStep(timesteps[-1], c_latents=0.0, c_estimate=1.0))
    return steps


def ddim_steps(diffusion: Diffusion, num_inference_steps: int, eta: float = 0.0) -> list[SolverStep]:
    """Return the steps of DDIM; eta = 0 is deterministic, eta = 1 has the variance of DDPM.

    z_p = sqrt(a_p) x0 + sqrt(1 - a_p - s^2) e + s n          (Song et al. 2021, eq. 12)
    s = eta sqrt((1 - a_p) / (1 - a_t)) sqrt(1 - a_t / a_p)    (eq. 16)

    Timesteps lie on `linspace(0, highest_timestep, n)`; the last step returns the estimate, without noise (MSDM).
    """
    _check_steps(diffusion, num_inference_steps)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    grid = torch.linspace(highest_timestep(diffusion), 0, num_inference_steps, dtype=torch.float64)
    timesteps = [int(t) for t in grid]
    alphas = [float(diffusion.alphas_cumprod[t]) for t in timesteps]
    steps = []
    for timestep, alpha, alpha_next in zip(timesteps, alphas, alphas[1:], strict=False):
        sigma = eta * math.sqrt((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next))
        direction = math.sqrt(max(1 - alpha_next - sigma**2, 0.0)) / math.sqrt(1 - alpha)
        steps.append(
            SolverStep(
                timestep=timestep,
                c_latents=direction,
                c_estimate=math.sqrt(alpha_next) - direction * math.sqrt(alpha),
                c_noise=sigma,
            )
        )
    steps.append(SolverStep(timesteps[-1], c_latents=0.0, c_estimate=1.0))
    return steps


def euler_steps(flow: FlowMatching, num_inference_steps: int) -> list[SolverStep]:
    """Return the steps of Euler's method along the paths of a flow.

    z_next = z + (s_next - s) v,  v = (z - x0) / s

    Levels lie on `linspace(1, 1 / n, n)`, shifted, then 0.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
    levels = [1 - i / num_inference_steps for i in range(num_inference_steps)]
    sigmas = [flow.shift * level / (1 + (flow.shift - 1) * level) for level in levels]
    return [
        SolverStep(sigma * flow.num_timesteps, c_latents=following / sigma, c_estimate=1 - following / sigma)
        for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True)
    ]


def solver_steps(
    solver: SolverName, process: NoiseProcess, num_inference_steps: int, eta: float = 0.0
) -> list[SolverStep]:
    """Return the steps of a solver by name.

    Raises:
        ValueError: If the solver is not made for such a process, or eta is not for the solver.
    """
    if isinstance(process, FlowMatching):
        if solver != "euler":
            raise ValueError(f"solver {solver} is for diffusion, and this model is a flow; use solver euler")
        return euler_steps(process, num_inference_steps)
    match solver:
        case "dpm-solver++":
            if eta:
                raise ValueError(f"eta = {eta} has no meaning for dpm-solver++; use ddim, or eta = 0")
            return dpm_solver_steps(process, num_inference_steps)
        case "ddim":
            return ddim_steps(process, num_inference_steps, eta)
        case "euler":
            raise ValueError(
                "solver euler is for flows, and this model is a diffusion; use dpm-solver++ or ddim"
            )


def _check_steps(diffusion: Diffusion, num_inference_steps: int) -> None:
    most = highest_timestep(diffusion) + 1
    if not 1 <= num_inference_steps <= most:
        raise ValueError(f"num_inference_steps must lie in [1, {most}], got {num_inference_steps}")
