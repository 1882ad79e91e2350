"""The judge of a search is the task's."""

from lacoot_deploy.tasks.judge import Judge, Quality, relative_rms

__all__ = ["Judge", "Quality", "relative_rms"]
