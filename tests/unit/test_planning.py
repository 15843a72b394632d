"""What a burst does, worked out and drawn."""

import sys
from io import BytesIO
from math import inf, isclose, nan
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from operator_cli.main import app
from operator_cli.planning import Burst, Scenario, at, simulate
from operator_cli.plots import Curve, as_png, as_svg, as_text
from shared.errors import Misconfigured

PLAN = ["plan", "--rate", "2000", "--burst", "20000x10m", "--capacity", "4000"]
TALK = Scenario(rate=2_000, capacity=4_000, burst=Burst(20_000, 600))


def test_time_lag_goes_on_growing_after_message_lag_has_begun_to_fall() -> None:
    plan = simulate(TALK)

    assert isclose(plan.message_peak.at_s, 600, rel_tol=0.02)
    assert isclose(plan.message_peak.message_lag, 16_000 * 600, rel_tol=0.02)
    # The last record of the burst is applied when 12 M records have been, at 4,000 a second.
    assert isclose(plan.time_peak.at_s, 3_000, rel_tol=0.02)
    assert isclose(plan.time_peak.time_lag_s, 2_400, rel_tol=0.02)
    assert isclose(plan.caught_up_s, 600 + 9_600_000 / 2_000, rel_tol=0.02)


def test_a_shard_that_is_stopped_for_a_minute_is_a_minute_late_and_catches_up() -> None:
    stopped = Scenario(rate=1_000, capacity=3_000, burst=Burst(0, 0), stopped_s=60)

    plan = simulate(stopped)

    assert isclose(plan.time_peak.time_lag_s, 60, rel_tol=0.02)
    assert isclose(plan.message_peak.message_lag, 60_000, rel_tol=0.02)
    assert isclose(plan.caught_up_s, 60 + 30, rel_tol=0.02)


def test_a_backlog_is_as_old_as_it_took_to_come() -> None:
    plan = simulate(Scenario(rate=100, capacity=200, burst=Burst(0, 0), backlog=1_000))

    assert isclose(plan.moments[0].time_lag_s, 10, rel_tol=0.01)
    assert at(plan, 1_000).message_lag == 0


def test_a_backlog_waits_from_when_the_burst_begins_and_through_a_stop() -> None:
    quiet, stop = Burst(0, 0), 60.0
    backlog = simulate(Scenario(rate=1_000, capacity=2_000, burst=quiet, backlog=100_000))
    stopped = simulate(
        Scenario(rate=1_000, capacity=2_000, burst=quiet, backlog=100_000, stopped_s=stop)
    )

    assert (backlog.message_peak.at_s, backlog.message_peak.message_lag) == (0, 100_000)
    assert isclose(backlog.caught_up_s, 100, rel_tol=0.01)
    assert isclose(stopped.message_peak.message_lag, 160_000)
    assert isclose(stopped.time_peak.time_lag_s, 160)


def test_the_peak_of_a_short_burst_is_found_however_long_catching_up_takes() -> None:
    plan = simulate(Scenario(rate=1_000, capacity=1_001, burst=Burst(2_001, 10)))

    assert isclose(plan.message_peak.message_lag, 10_000)
    assert plan.message_peak.at_s == 10


def test_a_backlog_to_which_nothing_is_added_is_worked_off() -> None:
    plan = simulate(Scenario(rate=0, capacity=100, burst=Burst(0, 0), backlog=1_000))

    assert isclose(plan.caught_up_s, 10, rel_tol=0.01)
    assert isclose(plan.time_peak.time_lag_s, 10, rel_tol=0.01)


@pytest.mark.parametrize(
    ("rate", "backlog"), [(1.0, 1e308), (1.0, inf), (1.0, nan), (1e-300, 1e15)]
)
def test_what_no_float_can_add_up_is_refused(rate: float, backlog: float) -> None:
    with pytest.raises(Misconfigured, match=r"1e\+15 at most"):
        Scenario(rate=rate, capacity=2, burst=Burst(0, 0), backlog=backlog)


def test_a_capacity_that_never_catches_up_is_told() -> None:
    with pytest.raises(Misconfigured, match="never catches up"):
        Scenario(rate=10, capacity=10, burst=Burst(0, 0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--burst", "20000"], "--burst 20000 cannot be read"),
        (["--burst", "20000x10"], "--burst 20000x10 cannot be read"),
        (["--stopped", "60"], "--stopped 60 cannot be read"),
        (["--svg", "/dev/null/plan.svg"], "--svg /dev/null/plan.svg cannot be written"),
    ],
)
def test_what_cannot_be_planned_or_drawn_is_told_with_its_option(
    arguments: list[str], sentence: str
) -> None:
    result = CliRunner().invoke(app, ["plan", "--rate", "1", "--capacity", "2", *arguments])

    assert result.exit_code == 2
    assert sentence in result.stderr


def test_curves_are_drawn() -> None:
    curve = Curve("lag", [(0.0, 0.0), (1.0, 8.0)], str, str, measured=[(0.5, 4.0)])

    assert "█" in as_text(curve)
    assert as_svg([curve], "a < b").count("<circle") == 1
    assert "a &lt; b" in as_svg([curve], "a < b")


def test_pixels_show_the_same_as_the_svg() -> None:
    curve = Curve("lag", [(0.0, 0.0), (1.0, 8.0)], str, str, measured=[(0.5, 4.0)])

    picture = Image.open(BytesIO(as_png([curve, curve], "a < b"))).convert("RGB")

    assert picture.size == (1_520, 988)
    colours = {colour for _, colour in picture.getcolors(maxcolors=1_000_000) or []}
    assert {(0x0B, 0x6E, 0x8A), (0xA8, 0x5B, 0x00), (0x1C, 0x24, 0x30)} <= colours


def test_both_curves_are_drawn_into_files(tmp_path: Path) -> None:
    svg, png = tmp_path / "plan.svg", tmp_path / "plan.png"

    result = CliRunner().invoke(app, [*PLAN, "--svg", str(svg), "--png", str(png)])

    assert result.exit_code == 0, result.output
    assert "message lag" in svg.read_text("utf-8")
    assert "time lag" in svg.read_text("utf-8")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_file_that_cannot_be_written_and_pixels_that_nothing_draws_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = CliRunner().invoke(app, [*PLAN, "--png", str(tmp_path / "none" / "plan.png")])
    monkeypatch.setitem(sys.modules, "PIL", None)
    without = CliRunner().invoke(app, [*PLAN, "--png", str(tmp_path / "plan.png")])

    assert (nowhere.exit_code, without.exit_code) == (2, 2)
    assert "cannot be written (No such file or directory)" in nowhere.stderr
    assert "PNG needs Pillow" in without.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--burst", "20000"], ["--burst", "1e9x1m"], ["--burst", "x10m"], ["--stopped", "1d"]),
        *(["--burst", "9" * 400 + "x1s"], ["--backlog", "1e308"]),
        *(["--capacity", "inf"], ["--stopped", "9" * 400 + "s"], ["--rate", "4000"]),
        ["--burst", "1e308x1h"],
    ],
)
def test_what_cannot_be_planned_is_a_sentence(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*PLAN, *arguments])

    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
