"""The package as its users get it: built, and installed in an empty environment with each extra alone.

It needs the package index, so it runs by `scripts/package` and not in every run.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import eventferry
from tests.test_docs import ROOT, blocks_of

pytestmark = pytest.mark.package

UNREACHABLE = """
import asyncio
from eventferry import MissingExtraError, StoreUnreachableError, open_store

async def main(url):
    try:
        async with open_store(url) as store:
            await store.describe()
    except MissingExtraError as error:
        assert "pip install" in str(error), error
        print("missing")
    except StoreUnreachableError:
        print("there")

asyncio.run(main({url!r}))
"""
SERVERS = {"postgresql": "postgresql://127.0.0.1:1/none", "mysql": "mysql://root@127.0.0.1:1/none"}


@dataclass
class Environment:
    """An empty environment with the wheel and one extra."""

    home: Path

    def run(self, *words: str, status: int = 0) -> str:
        ended = subprocess.run(
            [self.home / "bin" / words[0], *words[1:]],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.home,
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def has_driver(self, server: str) -> bool:
        return self.run("python", "-c", UNREACHABLE.format(url=SERVERS[server])).strip() == "there"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True)
    return folder


def installed(built: Path, home: Path, extra: str) -> Environment:
    [wheel] = built.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    environment = Environment(home)
    environment.run("pip", "install", "--quiet", f"{wheel}[{extra}]" if extra else str(wheel))
    return environment


def test_wheel_and_sdist_hold_the_package_and_nothing_else(built: Path) -> None:
    [wheel], [sdist] = built.glob("*.whl"), built.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "eventferry",
        f"eventferry-{eventferry.__version__}.dist-info",
        f"eventferry-{eventferry.__version__}.data",
    }
    manuals = {name.rpartition("/")[2] for name in names if "/share/man/man1/" in name}
    assert {"eventferry.1", "eventferry-copy.1", "eventferry-backup-check.1"} <= manuals
    assert "eventferry/py.typed" in names
    files = [path for path in (ROOT / "src").rglob("*.*") if path.is_file() and path.suffix != ".pyc"]
    sources = {str(path.relative_to(ROOT / "src")) for path in files}
    assert sources <= set(names)
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "src/eventferry/__init__.py"} <= packed


def test_without_extras_the_readmes_first_example_runs(built: Path, tmp_path: Path) -> None:
    environment = installed(built, tmp_path / "bare", "")
    [example] = [block for block in blocks_of((ROOT / "README.md").read_text()) if block.language == "python"]
    assert environment.run("python", "-c", example.text) == "0 1 0\n"
    assert not any(environment.has_driver(server) for server in SERVERS)
    assert "pip install" in environment.run("eventferry", "--version", status=1)


@pytest.mark.parametrize("server", SERVERS)
def test_the_extra_of_a_server_brings_its_driver_and_no_other(
    built: Path, tmp_path: Path, server: str
) -> None:
    environment = installed(built, tmp_path / server, server)
    assert [name for name in SERVERS if environment.has_driver(name)] == [server]


def test_the_extra_of_the_command_line_brings_the_command(built: Path, tmp_path: Path) -> None:
    environment = installed(built, tmp_path / "cli", "cli")
    assert eventferry.__version__ in environment.run("eventferry", "--version")
    environment.run("eventferry", "init", "a.db")
    (environment.home / "new.jsonl").write_text('{"type":"T","timestamp":1,"aggregateId":"a"}\n')
    assert "imported 1" in environment.run("eventferry", "incremental-import", "new.jsonl", "a.db")
    assert environment.run("eventferry", "export", "a.db", "-").startswith('{"threadCounter":0,')


def test_the_extra_for_parquet_brings_what_it_needs_and_without_it_the_error_says_so(
    built: Path, tmp_path: Path
) -> None:
    environment = installed(built, tmp_path / "parquet", "parquet")
    environment.run("python", "-c", "import eventferry; eventferry.to_parquet().codec()")
    bare = installed(built, tmp_path / "bare", "")
    assert "eventferry[parquet]" in bare.run(
        "python", "-c", "import eventferry; eventferry.to_parquet", status=1
    )


SERVICE = """
from eventferry import open_store
from eventferry.http import create_app
print(type(create_app(open_store("a.db"), insecure=True, console=True)).__name__)
"""


def test_the_extra_of_the_service_brings_the_application(built: Path, tmp_path: Path) -> None:
    environment = installed(built, tmp_path / "http", "http")
    assert environment.run("python", "-c", SERVICE) == "Starlette\n"
