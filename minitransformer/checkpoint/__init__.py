"""From a folder to a Transformer and back: rules become a finite plan, the plan loads and saves."""

from minitransformer.checkpoint.load import load_checkpoint
from minitransformer.checkpoint.plan import Entry, Plan, make_plan
from minitransformer.checkpoint.report import Report
from minitransformer.checkpoint.save import save_checkpoint

__all__ = ["Entry", "Plan", "Report", "load_checkpoint", "make_plan", "save_checkpoint"]
