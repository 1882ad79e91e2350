from __future__ import annotations

from lacoot_deploy.machine import cpu_quota
from lacoot_deploy.runtime.doctor import doctor


def test_the_cpu_works_and_everything_else_says_why_not():
    found = doctor()
    reports = {report.name: report for report in found.providers}
    assert reports["cpu"].works
    assert all(report.works != bool(report.problem) for report in reports.values())
    assert found.auto in reports
    assert reports[found.auto].works
    assert "onnx" in found.versions
    assert found.machine.cpus >= found.machine.affinity >= 1


def test_quotas_of_both_kinds_of_control_groups_are_read(tmp_path):
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cpu_quota(tmp_path) == 0.5
