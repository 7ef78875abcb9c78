"""What a run leaves for people: a model card and pictures."""

from minitransformer.finetune.report.write import source_name, write_report

__all__ = ["source_name", "write_report"]
