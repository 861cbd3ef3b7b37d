"""Events in Apache Spark: read from stores, other products' tables and backups; changed by rules; written to stores.

    import eventferry.spark

    eventferry.spark.register(spark)
    events = spark.read.format("eventferry").option("url", "postgresql://…").load()

docs/spark.md says more.
"""

from __future__ import annotations

from eventferry.errors import MissingExtraError

try:
    from pyspark.sql import SparkSession

    from eventferry.spark.changing import changed, numbered
    from eventferry.spark.source import EventferrySource
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("pyspark", "pyarrow"):
        raise
    raise MissingExtraError("Spark needs packages: pip install 'eventferry[spark]'") from None

__all__ = ["EventferrySource", "changed", "numbered", "register"]


def register(spark: SparkSession) -> None:
    """Make the format `eventferry` known to a session, and let Spark hand filters of queries down to it."""
    spark.conf.set("spark.sql.python.filterPushdown.enabled", "true")
    spark.dataSource.register(EventferrySource)
