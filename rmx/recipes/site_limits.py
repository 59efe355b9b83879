"""Which training runs the visitors of a site may start, and how large they may be."""

from rmx.errors import Refused
from rmx.models.site_rules import DUPLICATE, SiteRules
from rmx.recipes.job import TrainJob

# A visitor's run on `mini` where training is "mini": fields of the recipe and the most that each may ask for.
CAPS = {
    "problems": 48, "k": 12, "select": 32, "max_new_tokens": 256, "epochs": 1, "max_steps": 40, "rank": 64,
    "micro_batch": 16, "grad_accum": 8, "max_seq_len": 512, "validation": 60, "validation_k": 4, "test": 100,
}  # fmt: skip
FEWEST_CHECKS = 0.2  # epochs between two checks, at least


def admit_job(rules: SiteRules, job: TrainJob) -> None:
    """Refuse a training run that a visitor may not start on this site."""
    if rules.training == "off":
        raise Refused(f"Training is off on this site. {DUPLICATE}")
    if rules.public:
        rules.admit_model(job.model)
        if rules.training == "on" or not job.set_name:  # "mini" is narrower, and says so below
            rules.admit_set(job.set_name or "")
        if job.server or job.from_rollouts or job.init_adapter:
            raise Refused("A public site samples its own rollouts and trains a new adapter.")
    if rules.training == "on":
        return
    if job.model != "mini" or job.set_name not in ("mini", "mini:train"):
        raise Refused(f"Visitors may train mini on its own problems here. {DUPLICATE}")
    if job.taus:
        raise Refused(f"A sweep of thresholds is too long for this site. {DUPLICATE}")
    flat = job.recipe.flat()
    for name, most in CAPS.items():
        value = flat[name]
        if value is None or value > most:
            shown = "no limit" if value is None else f"{value}"
            said = f"{name.replace('_', ' ')} may be {most} at most here, not {shown}: take the quick recipe."
            raise Refused(f"{said} {DUPLICATE}")
    if flat["checkpoint_every"] < FEWEST_CHECKS:
        raise Refused(f"A check every {FEWEST_CHECKS:g} epochs is the most here: take the quick recipe.")
