"""Assertions of the shared contract explain themselves."""

import pytest

pytest.register_assert_rewrite("tests.support.folder_contract")
