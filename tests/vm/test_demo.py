"""Provisioning a booting guest from power-on, as `make demo-vm` shows it."""

from . import demo


def test_demo(capfd):
    """Secrets, keys, config and mounts are in the guest afterwards: mode, owner and content."""
    assert demo.main() == 0
    shown = capfd.readouterr().out
    assert "GITHUB_TOKEN: mode 600, owner root, content as sent" in shown
    assert shown.endswith("the machine has turned itself off\n")
