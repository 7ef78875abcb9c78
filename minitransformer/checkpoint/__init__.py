"""From a folder to a Transformer and back: rules become a finite plan, the plan loads and saves."""

from minitransformer.checkpoint.adapter import adapter_base, adapter_head, is_adapter, load_adapter, save_adapter
from minitransformer.checkpoint.load import load_checkpoint
from minitransformer.checkpoint.plan import Entry, Plan, make_plan
from minitransformer.checkpoint.report import Report
from minitransformer.checkpoint.save import save_checkpoint

__all__ = [
    "Entry",
    "Plan",
    "Report",
    "adapter_base",
    "adapter_head",
    "is_adapter",
    "load_adapter",
    "load_checkpoint",
    "make_plan",
    "save_adapter",
    "save_checkpoint",
]
