"""The tasks of a run on Spark: executors fetch, extract, cut and encode by the functions of the local engine; this process alone lists and writes.

A job is one partition of small documents, or one large one. Jobs run side by side, a bounded number ahead of the writer, and their results come in order.
An executor that dies costs what Spark does again elsewhere. Nothing is sent but the source's address, the tasks and the retrievers' files: who may read the
source is told to executors as to any process of boto3 (an instance role, AWS_* in their environment).
"""

import os
import sys
import tempfile
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkConf, SparkContext, SparkFiles
from pyspark.errors import PySparkException
from quarry_contract.manifests import MODEL_MANIFEST, Chunker, ManifestError
from quarry_runtime.encode import Encoder
from quarry_runtime.session import open_artefact

from .blocks import Document
from .engine import Outcome, Result, Task, look, open_source
from .extract import VERSION
from .sources import Source, SourceError
from .targets import Target, encoded

PARTITION_DOCUMENTS, PARTITION_BYTES = 16, 1 << 20  # of source; a larger document is alone
PARTITION_CHARACTERS = 4_000_000  # of text: a partition of several ends there, and the rest is done one by one
JOBS_PER_CORE, MOST_JOBS = 2, 256
BYTES_AHEAD = 64 << 20  # of source, in all jobs together; but a document larger than that goes too
TRIES = 4


@dataclass(frozen=True)
class Recipe:
    """How one generation's passages are made; its retriever's files are the Spark archive of its name."""

    generation: str
    encoder_digest: str
    chunker: Chunker


@dataclass(frozen=True)
class Plan:
    """What every job of a run needs."""

    address: str
    recipes: tuple[Recipe, ...]
    extractor: int
    most_characters: int  # of text in the result of several documents


@dataclass(frozen=True)
class Failed:
    """The source or the executor cannot go on; the message says what to do."""

    reason: str


Done = Outcome | Failed | None


class Spark:
    """An engine; its Spark application starts with the first task and ends with the run."""

    def __init__(self, master: str | None, most_characters: int = PARTITION_CHARACTERS) -> None:
        """`master`: Spark's address of a cluster, or local[N]; None = Spark's own settings, or local[*]."""
        self._master = master
        self._most_characters = most_characters

    def results(self, source: Source, targets: Sequence[Target], tasks: Iterable[Task]) -> Iterator[Result]:
        """Each task's outcome, in the order of the tasks.

        Raises:
            SourceError: the source cannot be read, or Spark does not do the work.
            ManifestError: a target's retriever is not whole.
        """
        parts = partitions(tasks)
        first = next(parts, None)
        if first is None:
            return
        with tempfile.TemporaryDirectory(prefix="quarry-spark-") as folder, context(self._master) as spark:
            plan = Plan(source.address, tuple(_ship(spark, target, Path(folder)) for target in targets), VERSION, self._most_characters)
            with ThreadPoolExecutor(MOST_JOBS, "spark-job") as threads:
                try:
                    yield from Jobs(spark, plan, threads).results(first, parts)
                finally:
                    threads.shutdown(wait=False, cancel_futures=True)
                    spark.cancelAllJobs()


def partitions(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    """The tasks, in order, by job."""
    part: list[Task] = []
    size = 0
    for task in tasks:
        if part and (len(part) == PARTITION_DOCUMENTS or size + task.item.size > PARTITION_BYTES):
            yield part
            part, size = [], 0
        part.append(task)
        size += task.item.size
    if part:
        yield part


class Jobs:
    """The jobs of one run: some ahead of the writer, all in order."""

    def __init__(self, spark: SparkContext, plan: Plan, threads: ThreadPoolExecutor) -> None:
        self._spark, self._plan, self._threads = spark, plan, threads
        self._ahead: deque[tuple[list[Task], Future[list[Done]]]] = deque()

    def results(self, first: list[Task], parts: Iterator[list[Task]]) -> Iterator[Result]:
        """Each task's outcome. A partition's results are let go of before more is asked for."""
        self._start(first)
        while self._ahead:
            while self._room() and (part := next(parts, None)) is not None:
                self._start(part)
            part, job = self._ahead.popleft()
            yield from self._collected(part, job)

    def _start(self, part: list[Task]) -> None:
        self._ahead.append((part, self._threads.submit(self._run, part)))

    def _room(self) -> bool:
        most = min(JOBS_PER_CORE * self._spark.defaultParallelism, MOST_JOBS)
        return len(self._ahead) < most and sum(task.item.size for part, _ in self._ahead for task in part) < BYTES_AHEAD

    def _run(self, part: list[Task]) -> list[Done]:
        """One Spark job of one task."""
        found: list[Done] = self._spark.parallelize([part], 1).flatMap(partial(work, self._plan)).collect()
        return found

    def _collected(self, part: list[Task], job: "Future[list[Done]]") -> Iterator[Result]:
        """The outcomes of a job, and of what it left.

        Raises:
            SourceError: an executor cannot go on, or Spark gave up.
        """
        try:
            found = job.result()
            for task, outcome in zip(part, found, strict=False):
                if isinstance(outcome, Failed):
                    raise SourceError(outcome.reason)
                yield task, outcome
            for task in part[len(found) :]:
                yield from self._collected([task], self._threads.submit(self._run, [task]))
        except (Py4JError, PySparkException) as error:
            what = f"Spark gave up on {part[0].item.uri} or the {len(part) - 1} documents after it ({type(error).__name__}; its log says why)"
            raise SourceError(f"{what}: what was done stays, ingest again") from None


@contextmanager
def context(master: str | None) -> Iterator[SparkContext]:
    """A Spark application, stopped at the end.

    Raises:
        SourceError: it does not start.
    """
    conf = SparkConf()
    master = master or conf.get("spark.master", "local[*]")
    conf.setMaster(f"{master[:-1]},{TRIES}]" if master.startswith("local[") and "," not in master else master)
    conf.setIfMissing("spark.app.name", "quarry-ingestion").setIfMissing("spark.ui.enabled", "false").setIfMissing("spark.ui.showConsoleProgress", "false")
    if master.startswith("local"):
        conf.setIfMissing("spark.driver.host", "127.0.0.1").setIfMissing("spark.driver.bindAddress", "127.0.0.1")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        spark = SparkContext(conf=conf)
    except (Py4JError, PySparkException, OSError) as error:
        raise SourceError(f"Spark does not start on {master}: it needs Java 17 or newer (JAVA_HOME), and that master: {_reason(error)}") from None
    try:
        yield spark
    finally:
        spark.stop()


def _reason(error: Exception) -> str:
    """What Java says, in one line, or else the kind of error."""
    message = str(error.java_exception.getMessage()) if isinstance(error, Py4JJavaError) else type(error).__name__
    return message.strip().partition("\n")[0]


def _ship(spark: SparkContext, target: Target, folder: Path) -> Recipe:
    """Give executors the retriever of a target: the files its manifest lists, in one archive that Spark unpacks.

    Raises:
        ManifestError: it is not whole, or is another.
    """
    manifest = open_artefact(target.model_dir, "retriever")
    recipe = Recipe(target.generation, target.store.manifest.encoder_digest, target.store.manifest.chunker)
    if manifest.digest != recipe.encoder_digest:
        raise ManifestError(f"{target.model_dir} is not the retriever that index {target.generation} was encoded by")
    archive = folder / f"{target.generation}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for name in (MODEL_MANIFEST, *manifest.files):
            packed.write(target.model_dir / name, name)
    spark.addArchive(f"{archive}#{target.generation}")
    return recipe


def work(plan: Plan, part: Sequence[Task]) -> Iterator[Done]:
    """On an executor: each task's outcome with its passages, until the text is too much for one result."""
    if plan.extractor != VERSION:
        yield Failed(f"executors extract by version {VERSION}, this process by {plan.extractor}: install the same quarry-ingestion on both")
        return
    characters = 0
    for number, task in enumerate(part):
        outcome = _outcome(plan, task)
        if isinstance(outcome, Outcome) and isinstance(outcome.found, Document):
            characters += len(outcome.found.text)
        if number and characters > plan.most_characters:
            return
        yield outcome


def _outcome(plan: Plan, task: Task) -> Done:
    try:
        outcome = look(source_at(plan.address), task, Path(SparkFiles.getRootDirectory(), f"reading-{os.getpid()}"))
        if outcome is None or not isinstance(outcome.found, Document):
            return outcome
        document = replace(outcome.found, document_id=task.document_id, source=task.item.uri, principals=outcome.principals)
        passages = {recipe.generation: encoded(document, encoder_of(recipe), recipe.chunker, threads=1) for recipe in plan.recipes}
        return replace(outcome, passages=passages)
    except (SourceError, ManifestError) as error:
        return Failed(f"on an executor: {error}")
    except OSError as error:
        return Failed(f"on an executor: {error.strerror or type(error).__name__}")


@cache
def source_at(address: str) -> Source:
    """The source, opened once in a Python worker."""
    return open_source(address)


@cache
def encoder_of(recipe: Recipe) -> Encoder:
    """The retriever, loaded once in a Python worker.

    Raises:
        ManifestError: what came is not it.
    """
    encoder = Encoder.load(Path(SparkFiles.get(recipe.generation)))
    if encoder.manifest.digest != recipe.encoder_digest:
        raise ManifestError(f"the retriever that came is not that of index {recipe.generation}")
    return encoder
