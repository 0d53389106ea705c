import pytest

import social_dilemmas
from tests.helpers.games import COUNTDOWN


@pytest.fixture(autouse=True)
def countdown():
    social_dilemmas.register(COUNTDOWN)
