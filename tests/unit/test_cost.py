"""Rates by device name, the override, and what is said of them."""

import pytest

from rmx.cost import VARIABLE, cost, rate_of
from rmx.errors import RmxError


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("device", "usd"),
    [
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 1.89),
        ("NVIDIA H100 80GB HBM3", 2.69),
        ("NVIDIA H100 PCIe", 2.49),
    ],
)
def test_rates_of_the_paper_by_cuda_name(device, usd):
    found = cost(1800, device)
    assert found.usd == pytest.approx(usd / 2)
    assert f"{usd:.2f} USD per hour" in found.sentence
    assert "April 2026" in found.sentence


@pytest.mark.parametrize(
    "device", ["cpu", "NVIDIA RTX 6000 Ada Generation", "NVIDIA H100 NVL", "NVIDIA A100-SXM4-80GB"]
)
def test_no_rate_is_made_up(device):
    found = cost(3600, device)
    assert found.usd is None
    assert VARIABLE in found.sentence


def test_override_wins_and_zero_is_an_amount(monkeypatch):
    monkeypatch.setenv(VARIABLE, " 0.5 ")
    assert cost(7200, "NVIDIA H100 PCIe").usd == pytest.approx(1.0)
    assert VARIABLE in cost(1, "cpu").sentence
    monkeypatch.setenv(VARIABLE, "0")
    assert cost(7200, "cpu").usd == 0


@pytest.mark.parametrize("text", ["two", "-1", "nan", "inf"])
def test_override_that_is_no_amount_is_explained(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(RmxError, match=VARIABLE):
        rate_of("cpu")


def test_negative_seconds_are_a_bug():
    with pytest.raises(ValueError, match="seconds"):
        cost(-1, "cpu")
