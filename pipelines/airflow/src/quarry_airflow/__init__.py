"""Ingestion on a schedule: the parts of the DAG in dags/ that need no Airflow to be imported."""
