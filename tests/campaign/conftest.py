"""What the tests of the campaign share."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from campaign.fork_server import ForkServer
from campaign.killing import Campaign
from loradet.datasets.synthetic import generate


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--campaign-seed N`, with `pytest tests/campaign`."""
    parser.addoption(
        "--campaign-seed", type=int, help="repeats the random kills of a campaign that printed this number"
    )


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Of random kills; another one each time, unless it is given."""
    given = request.config.getoption("--campaign-seed", default=None)
    chosen = int(time.time()) if given is None else given
    print(f"\nRepeat the random kills by --campaign-seed {chosen}")
    return chosen


@pytest.fixture(scope="session")
def campaign_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen tiny scenes to train on."""
    folder = tmp_path_factory.mktemp("campaign_data")
    return generate(folder / "data", size=(48, 64), counts={"train": 14, "val": 4, "test": 3})


@pytest.fixture(scope="session")
def campaign(campaign_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """The one of this session."""
    with ForkServer() as server:
        run = Campaign(server, campaign_data, tmp_path_factory.mktemp("campaign"))
        yield run
        print(f"\n{run.kills} kills.")


@pytest.fixture
def faults(campaign: Campaign) -> Iterator[list[str]]:
    """Those of one test, which fails by them at its end."""
    campaign.faults.clear()
    yield campaign.faults
    assert not campaign.faults, "\n".join(campaign.faults)
