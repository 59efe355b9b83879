"""A run on the reference data, alone or under `accelerate launch`: `two_processes.py RUN OUT`."""

import json
import os
import sys
from pathlib import Path

import torch

from rmx.models.load import load
from rmx.train.step.processes import Team
from tests.parity.reference import DATA, trainer_of

if __name__ == "__main__":
    torch.set_num_threads(1)
    run, out = sys.argv[1], Path(sys.argv[2])
    team = Team() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    trainer = trainer_of(load(str(DATA / "model"), "cpu", "float32"), run, team=team)
    made = [step.json() for step in trainer.run()]
    trainer.save(out / "checkpoint")
    rank = team.process_index if team else 0
    (out / f"made-{rank}.json").write_text(json.dumps(made))
