import urllib.request
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout: float) -> NoReturn:
        raise AssertionError(f"a test went to the network, for {url}")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
