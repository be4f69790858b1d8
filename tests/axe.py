"""The accessibility check of axe-core, whose file axe.min.js the environment variable TAG2MASK_AXE names."""

import os
from pathlib import Path

import pytest
from selenium import webdriver

RUN = """const done = arguments[arguments.length - 1];
axe.run().then((found) => done(found.violations.map((each) =>
  `${each.id}: ${each.nodes.slice(0, 3).map((node) => node.target + " " + node.failureSummary).join("; ")}`)));"""


def violations(driver: webdriver.Chrome) -> list[str]:
    """The violations on the open page, with the first elements of each; skips without axe-core."""
    file = os.environ.get("TAG2MASK_AXE")
    if not file:
        pytest.skip("TAG2MASK_AXE does not name axe.min.js of the npm package axe-core")
    driver.execute_script(Path(file).read_text(encoding="utf-8"))
    return list(driver.execute_async_script(RUN))
