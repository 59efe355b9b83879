"""Whether a GPU has room for a run beside the models that are loaded, before it is started."""

import torch

from rmx.errors import TrainError
from rmx.models import choose_device
from rmx.presets import preset_of
from rmx.train.job import TrainJob

SPARE = 2.0  # times the weights: keys and values of the rollouts, activations, logits of a chunk


def check_room(job: TrainJob) -> None:
    """Refuse a run on a GPU whose free memory is less than its weights and what is computed with them.

    Only sizes that are known beforehand are checked; a model without a preset may still run out of memory, which its
    run then says.

    Raises:
        TrainError: there is no room.
    """
    device, preset = choose_device(job.device), preset_of(job.model)
    if device.type != "cuda" or preset is None:
        return
    free, _ = torch.cuda.mem_get_info(device)
    needed = preset.parameters * 1e6 * 2 * SPARE
    if free < needed:
        raise TrainError(
            f"The GPU has {free / 1e9:.1f} GB free and a run on {job.model} needs about {needed / 1e9:.1f} GB. "
            "Unload models in the app, or train a smaller one."
        )
