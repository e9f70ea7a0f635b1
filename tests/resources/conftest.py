from tests.whole.conftest import folder, scene  # noqa: F401  # fixtures
